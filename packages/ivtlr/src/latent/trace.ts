/** What a latent step looked at, in plain numbers. */

export interface StepTrace {
  /** Image-token indices (counted through all images, row-major over each token grid) in the order they were inserted. */
  picked: number[];
  /** Their attention probabilities, mean over layers and heads. */
  pickedScores: number[];
  /** The same for every image token. */
  scores: number[];
  /** Attention on the picked tokens divided by attention on text and latent text (docs/method.md). */
  attentionRatio: number;
  /** 1 / (entropy + 1e-6) of the attention within the images, entropy in nats (docs/method.md); NaN without images. */
  focus: number;
}

/** Follows which columns of one row are text while latent rows come in between. */
export class Tracer {
  readonly #columns: readonly number[];
  /** Per column: 1 for text and latent text, 0 for image tokens and inserted patches. */
  readonly #text: number[];

  /** @param columns of the image tokens in the prompt */
  constructor(promptTokens: number, columns: readonly number[]) {
    this.#columns = columns;
    this.#text = new Array<number>(promptTokens).fill(1);
    for (const column of columns) this.#text[column] = 0;
  }

  /** Columns of inserted patches. */
  addImageTokens(columns: number): void {
    for (let column = 0; column < columns; column++) this.#text.push(0);
  }

  /** Columns of text or latent text. */
  addText(columns: number): void {
    for (let column = 0; column < columns; column++) this.#text.push(1);
  }

  /** The columns from `column` on are forgotten; others will take their place. */
  forgetFrom(column: number): void {
    this.#text.length = column;
  }

  /**
   * Of a latent step.
   * @param row attention probabilities of all columns so far
   */
  step(row: readonly number[], picked: readonly number[]): StepTrace {
    const scores = this.#columns.map((column) => row[column]!);
    const pickedScores = picked.map((index) => scores[index]!);
    const text = this.#text.reduce((sum, isText, column) => sum + isText * row[column]!, 0);
    const attentionRatio = pickedScores.reduce((a, b) => a + b, 0) / text;
    return { picked: [...picked], pickedScores, scores, attentionRatio, focus: focusOf(scores) };
  }

  /**
   * Of a step that writes a token: `picked` are the `patches` image tokens with the most attention, whether latent steps inserted them or not.
   * @param row attention probabilities of all columns so far, the last one that of the position which writes the token
   */
  token(row: readonly number[], patches: number): StepTrace {
    const scores = this.#columns.map((column) => row[column]!);
    const picked = scores.map((_, index) => index).sort((a, z) => scores[z]! - scores[a]! || a - z);
    return this.step(row, picked.slice(0, patches));
  }
}

function focusOf(scores: readonly number[]): number {
  return scores.length === 0 ? Number.NaN : 1 / (entropy(scores) + 1e-6);
}

function entropy(scores: readonly number[]): number {
  const total = scores.reduce((a, b) => a + b, 0);
  return scores.reduce((sum, score) => (score > 0 ? sum - (score / total) * Math.log(score / total) : sum), 0);
}
