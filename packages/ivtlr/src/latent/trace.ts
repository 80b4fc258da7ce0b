/** What a latent step looked at, in plain numbers. */
import type { Tensor } from '@ivtlr/torch';
import type { LatentStep } from './rollout.ts';
import type { EmbeddedPrompt } from './sequence.ts';

export interface StepTrace {
  /** Image-token indices (row-major over the token grid) in the order they were inserted. */
  picked: number[];
  /** Their attention probabilities, mean over layers and heads. */
  pickedScores: number[];
  /** The same for every image token. */
  scores: number[];
  /** Attention on the picked tokens divided by attention on text and latent text (paper, attention ratio). */
  attentionRatio: number;
  /** 1 / (entropy + 1e-6) of the attention within the image, entropy in nats (paper, attention focus). */
  focus: number;
}

/** Follows which columns are text while latent rows come in between; the traces of one batch, step by step. */
export class Tracer {
  readonly #prompt: EmbeddedPrompt;
  /** Per row and column: 1 for text and latent text, 0 for image tokens, inserted patches and pads. */
  readonly #text: number[][];

  constructor(prompt: EmbeddedPrompt) {
    this.#prompt = prompt;
    const [B, P] = prompt.rows.shape as [number, number];
    const valid = prompt.valid?.toNumbers() ?? new Array<number>(B * P).fill(1);
    this.#text = prompt.imageStart.map((start, b) =>
      Array.from({ length: P }, (_, p) => {
        const inImage = start >= 0 && p >= start && p < start + prompt.imageTokens[b]!;
        return inImage ? 0 : valid[b * P + p]!;
      }),
    );
  }

  /** One trace a row. Call once for every step, in order. */
  trace(step: LatentStep): StepTrace[] {
    const [B, T] = step.scores.shape as [number, number];
    const all = step.scores.toNumbers();
    const width = step.inserted.shape[1]!;
    return Array.from({ length: B }, (_, b) => {
      const row = all.slice(b * T, (b + 1) * T);
      const start = Math.max(0, this.#prompt.imageStart[b]!);
      const scores = row.slice(start, start + this.#prompt.imageTokens[b]!);
      const picked = step.picked[b]!;
      const pickedScores = picked.map((index) => scores[index]!);
      const attentionRatio = this.#ratio(b, row, pickedScores);
      const K = Math.max(...step.picked.map((row) => row.length));
      for (let column = 0; column < width; column++) this.#text[b]!.push(column >= K ? 1 : 0);
      return { picked: [...picked], pickedScores, scores, attentionRatio, focus: focusOf(scores) };
    });
  }

  /** Columns of text that nothing is traced of. */
  addText(columns: number): void {
    for (const row of this.#text) for (let column = 0; column < columns; column++) row.push(1);
  }

  /**
   * One trace a row of a step that writes a token: `picked` are the `patches` image tokens with the most attention, those taken before too. Call once
   * for every token, in order, after the latent steps.
   * @param scores_BT attention probabilities of the position that writes the token
   */
  traceText(scores_BT: Tensor, patches: number): StepTrace[] {
    const [B, T] = scores_BT.shape as [number, number];
    const all = scores_BT.toNumbers();
    return Array.from({ length: B }, (_, b) => {
      const row = all.slice(b * T, (b + 1) * T);
      const start = Math.max(0, this.#prompt.imageStart[b]!);
      const scores = row.slice(start, start + this.#prompt.imageTokens[b]!);
      const picked = scores.map((_, index) => index).sort((a, z) => scores[z]! - scores[a]! || a - z);
      picked.length = Math.min(patches, picked.length);
      const pickedScores = picked.map((index) => scores[index]!);
      const attentionRatio = this.#ratio(b, row, pickedScores);
      this.#text[b]!.push(1);
      return { picked, pickedScores, scores, attentionRatio, focus: focusOf(scores) };
    });
  }

  #ratio(b: number, row: readonly number[], pickedScores: readonly number[]): number {
    const text = this.#text[b]!.reduce((sum, isText, column) => sum + isText * row[column]!, 0);
    return pickedScores.reduce((a, c) => a + c, 0) / text;
  }
}

function focusOf(scores: readonly number[]): number {
  return 1 / (entropy(scores) + 1e-6);
}

function entropy(scores: readonly number[]): number {
  const total = scores.reduce((a, b) => a + b, 0);
  return scores.reduce((sum, score) => (score > 0 ? sum - (score / total) * Math.log(score / total) : sum), 0);
}
