/**
 * A sample becomes token ids and labels (docs/method.md, training and prompts) in two moves: `tokenizeSample` does the text work, which no stage changes;
 * `renderTraining` and `renderInference` place latent slots and leave out steps. Training, evaluation and serving share both.
 */
import { UserError } from '../errors.ts';
import { type ChatTemplate, renderChat } from '../text/chat-template.ts';
import { choiceLetter, type Phase, type PromptProfile, stripText } from '../text/prompt.ts';
import { expandImages, type PromptImage, requireImageCount, requireImages, writeImages } from '../text/prompt-image.ts';
import type { CarriedValues, Sample, SupervisedSample } from './sample.ts';

/** Label of a position that is not trained. */
export const IGNORE = -100;

/** The part of a tokenizer that rendering needs. */
export interface TextEncoder {
  readonly eosId: number;
  encodeBatch(texts: readonly string[]): Promise<number[][]>;
  tokenToId(token: string): number | undefined;
  idToToken(id: number): string | undefined;
  /** Whether a token is put in by name rather than made of text. */
  isAdded(id: number): boolean;
}

export interface RenderOptions {
  tokenizer: TextEncoder;
  profile: PromptProfile;
  /** Needed when a format of the profile has `chat`. */
  chatTemplate?: ChatTemplate;
  /** Token that stands once per image in a prompt's text and N times in its ids. */
  imageToken: string;
  latentToken: string;
  /** Rationale pieces beyond this many are merged (official 3). */
  maxSteps?: number;
  /** Question, all steps and answer may have this many tokens (Qwen2-VL 3400, Chameleon 1400); whole steps are dropped from the end. */
  maxTokens?: number;
}

/** A sample in tokens, before a stage is chosen. */
export interface TokenizedSample {
  id: string;
  /** Ends where the latent slots begin; the image token stands `imageTokens` times in it. */
  promptIds: number[];
  imageTokens: number;
  stepIds: number[][];
  /** With the end-of-text token. Empty when tokenised for inference. */
  answerIds: number[];
  /** Stand right after the latent slots. */
  afterLatentIds: number[];
  /** Per step (after merging), the image tokens it looks at. */
  pickTargets?: number[][];
  /** Per step (after merging), the token of the value it hands on. */
  carried?: CarriedTokens;
  /** Steps lost because the sample was too long. */
  truncatedSteps: number;
  latentId: number;
}

/** A carried value in tokens. */
export interface CarriedTokens {
  targets: number[];
  /** Tokens of all values. */
  values: number[];
}

/** One row for a model. */
export interface Rendered {
  /** Prompt, then T latent slots, then what the format puts after them, then (training) remaining steps and answer. */
  ids: number[];
  /** As long as `ids`; -100 up to the written text. */
  labels: number[];
  /** Index of the first latent slot, which is the prompt's length. */
  latentStart: number;
  /** T */
  latentSteps: number;
  imageTokens: number;
  /** Per latent slot, the image tokens its step looks at; empty lists where nothing is known. */
  pickTargets?: number[][];
  /** Per latent slot, the token of the value that its step hands on; the last one's beyond the steps there are. */
  carried?: CarriedTokens;
}

/**
 * Cuts a rationale into at most `maxSteps` steps: newlines become spaces, pieces end at ". ", an empty last piece is dropped, and more pieces
 * than allowed are merged into runs of neighbours whose sizes differ by at most one, larger first, joined by ". ".
 */
export function splitSteps(rationale: string, maxSteps = 3): string[] {
  return mergeRuns(splitPieces(rationale), maxSteps).map((run) => run.join('. '));
}

/** Text of a prompt, before the chat template. */
export function renderPrompt(
  sample: Pick<Sample, 'question' | 'choices'>,
  profile: PromptProfile,
  phase: Phase,
): string {
  return profile[phase].text(sample.question, sample.choices);
}

/**
 * Tokenises a sample.
 * @param images what becomes of its images, one each
 * @throws UserError when a text spells a token that only the prompt may put in (`<image>`, `<|im_end|>`), or a training sample has no answer.
 */
export async function tokenizeSample(
  sample: Sample,
  images: readonly PromptImage[],
  phase: Phase,
  options: RenderOptions,
): Promise<TokenizedSample> {
  const { tokenizer, profile, maxSteps = 3, maxTokens = Number.POSITIVE_INFINITY } = options;
  const training = phase === 'train';
  requireImageCount(profile, images.length);
  if (training && sample.answer === '') throw new UserError(`sample ${sample.id} has no answer to train on`);
  const pieces = training ? splitPieces(sample.rationale) : [];
  const steps = mergeRuns(pieces, maxSteps).map((run) => run.join('. '));
  const promptOf = (texts: Pick<Sample, 'question' | 'choices'>) => {
    const body = renderPrompt(texts, profile, phase);
    const text = profile[phase].chat ? chatPrompt(body, images.length, options) : body;
    return writeImages(text, images, options.imageToken);
  };
  const frame = promptOf({ question: 'x', choices: sample.choices.map(() => 'x') });
  const texts = [frame, promptOf(sample), ...steps.map((step) => `${step}\n`)];
  if (training) texts.push(`Therefore, the answer is ${sample.answer}`);
  const { afterLatents } = profile[phase];
  if (afterLatents) texts.unshift(afterLatents);
  const encoded = await tokenizer.encodeBatch(texts);
  const afterLatentIds = afterLatents ? encoded.shift()! : [];
  const [frameIds, markedIds, ...rest] = encoded as [number[], number[], ...number[][]];
  const imageId = idOf(tokenizer, options.imageToken);
  const latentId = idOf(tokenizer, options.latentToken);
  requireImages(frameIds, imageId, images, profile[phase].chat, options);
  // Only the prompt around a sample's texts puts special tokens in; what the texts themselves spell is never read as one.
  const added = (ids: readonly number[]) => ids.filter((id) => tokenizer.isAdded(id));
  if (String(added(markedIds)) !== String(added(frameIds)) || rest.some((ids) => added(ids).length > 0)) {
    throw await spelledToken(sample, training, tokenizer);
  }
  const promptIds = expandImages(markedIds, imageId, images, options.imageToken);
  const answerIds = training ? [...rest.pop()!, tokenizer.eosId] : [];
  const stepIds = fitSteps(rest, maxTokens - promptIds.length - afterLatentIds.length - answerIds.length);
  const tokenized: TokenizedSample = {
    id: sample.id,
    promptIds,
    imageTokens: promptIds.filter((id) => id === imageId).length,
    stepIds,
    answerIds,
    afterLatentIds,
    truncatedSteps: rest.length - stepIds.length,
    latentId,
  };
  if (training && sample.pickTargets) tokenized.pickTargets = mergeTargets(sample.pickTargets, pieces.length, maxSteps);
  if (training && sample.carried && pieces.length > 0)
    tokenized.carried = await carriedTokens(sample.carried, { pieces, maxSteps, tokenizer });
  return tokenized;
}

/** Prompt, T slots, what stands after them, the steps after the first `droppedSteps`, answer. The curriculum of a stage gives the plan. */
export function renderTraining(sample: TokenizedSample, plan: { latentSteps: number; droppedSteps: number }): Rendered {
  const rest = [...sample.stepIds.slice(plan.droppedSteps).flat(), ...sample.answerIds];
  const rendered = renderInference(sample, plan.latentSteps);
  rendered.ids.push(...rest);
  rendered.labels.push(...rest);
  if (sample.pickTargets) {
    const targets = sample.pickTargets;
    rendered.pickTargets = Array.from({ length: plan.latentSteps }, (_, t) => targets[t] ?? []);
  }
  if (sample.carried) {
    const { targets, values } = sample.carried;
    const last = targets.length - 1;
    rendered.carried = {
      targets: Array.from({ length: plan.latentSteps }, (_, t) => targets[Math.min(t, last)]!),
      values,
    };
  }
  return rendered;
}

/**
 * Prompt, T slots and what stands after them; nothing is labelled.
 * @param answerStart ids the answer starts with
 */
export function renderInference(
  sample: TokenizedSample,
  latentSteps: number,
  answerStart: readonly number[] = [],
): Rendered {
  const slots = new Array<number>(latentSteps).fill(sample.latentId);
  const ids = [...sample.promptIds, ...slots, ...sample.afterLatentIds, ...answerStart];
  return {
    ids,
    labels: new Array<number>(ids.length).fill(IGNORE),
    latentStart: sample.promptIds.length,
    latentSteps,
    imageTokens: sample.imageTokens,
  };
}

/**
 * Renders supervised text, without latent slots: the image (if any) in an otherwise empty user message, then the segments, each tokenised by
 * itself. The row's `latentStart` is the index of the first segment's first token.
 */
export async function renderSupervised(
  sample: SupervisedSample,
  image: PromptImage | null,
  options: Omit<RenderOptions, 'profile'>,
): Promise<Rendered> {
  const { tokenizer } = options;
  const images = image ? [image] : [];
  const prompt = writeImages(chatPrompt('', images.length, options), images, options.imageToken);
  const [markedIds, ...segments] = await tokenizer.encodeBatch([prompt, ...sample.segments.map(({ text }) => text)]);
  const imageId = idOf(tokenizer, options.imageToken);
  requireImages(markedIds!, imageId, images, true, options);
  const spelled = segments.flat().find((id) => tokenizer.isAdded(id));
  if (spelled !== undefined) throw new UserError(`a text to train on spells ${tokenizer.idToToken(spelled)}`);
  const promptIds = expandImages(markedIds!, imageId, images, options.imageToken);
  const ids = [...promptIds];
  const labels = new Array<number>(ids.length).fill(IGNORE);
  segments.forEach((segment, index) => {
    ids.push(...segment);
    labels.push(...(sample.segments[index]!.loss ? segment : segment.map(() => IGNORE)));
  });
  return {
    ids,
    labels,
    latentStart: promptIds.length,
    latentSteps: 0,
    imageTokens: promptIds.filter((id) => id === imageId).length,
  };
}

/** Which text spells which token. */
async function spelledToken(sample: Sample, training: boolean, tokenizer: TextEncoder): Promise<UserError> {
  const choices = sample.choices.map((choice, index): [string, string] => [`choice ${choiceLetter(index)}`, choice]);
  const texts: [string, string][] = [['the question', sample.question], ...choices];
  if (training) texts.push(['the rationale', sample.rationale], ['the answer', sample.answer]);
  const encoded = await tokenizer.encodeBatch(texts.map(([, text]) => text));
  for (const [index, ids] of encoded.entries()) {
    const id = ids.find((id) => tokenizer.isAdded(id));
    if (id !== undefined) {
      return new UserError(
        `sample ${sample.id}: ${texts[index]![0]} spells ${tokenizer.idToToken(id)}, a token that only the prompt may put in; write it otherwise`,
      );
    }
  }
  return new UserError(
    `sample ${sample.id}: its text together with the prompt spells a token that only the prompt may put in`,
  );
}

function chatPrompt(text: string, images: number, options: Pick<RenderOptions, 'chatTemplate'>): string {
  if (!options.chatTemplate)
    throw new UserError('the prompt profile needs a chat template, and the model folder has none');
  const content = [
    ...Array.from({ length: images }, () => ({ type: 'image' as const })),
    { type: 'text' as const, text },
  ];
  return renderChat(options.chatTemplate, [{ role: 'user', content }], { addGenerationPrompt: true });
}

function splitPieces(rationale: string): string[] {
  const pieces = stripText(rationale.replaceAll('\n', ' ')).split('. ');
  if (pieces.at(-1) === '') pieces.pop();
  return pieces;
}

/** [1,2,3,4,5] in 3 runs: [1,2] [3,4] [5]; not more runs than items. */
function mergeRuns<T>(items: readonly T[], maxRuns: number): T[][] {
  if (items.length <= maxRuns) return items.map((item) => [item]);
  const size = Math.floor(items.length / maxRuns);
  const larger = items.length % maxRuns;
  const runs: T[][] = [];
  for (let start = 0; runs.length < maxRuns; ) {
    const end = start + size + (runs.length < larger ? 1 : 0);
    runs.push(items.slice(start, end));
    start = end;
  }
  return runs;
}

/** The targets of a merged step are those of all its pieces. */
function mergeTargets(targets: readonly number[][], pieces: number, maxSteps: number): number[][] {
  const perPiece = Array.from({ length: pieces }, (_, index) => targets[index] ?? []);
  return mergeRuns(perPiece, maxSteps).map((run) => [...new Set(run.flat())]);
}

/** The value of a merged step is that of its last piece. A value's token is the last one of its text, as it stands behind a space. */
async function carriedTokens(
  { targets, values }: CarriedValues,
  { pieces, maxSteps, tokenizer }: { pieces: readonly string[]; maxSteps: number; tokenizer: TextEncoder },
): Promise<CarriedTokens> {
  const encoded = await tokenizer.encodeBatch(values.map((value) => ` ${value}`));
  const tokens = encoded.map((ids) => ids.at(-1)!);
  const merged = mergeRuns(
    pieces.map((_, index) => targets[index]!),
    maxSteps,
  );
  return { targets: merged.map((run) => tokens[values.indexOf(run.at(-1)!)]!), values: tokens };
}

/** The longest run of first steps with at most `room` tokens. */
function fitSteps(steps: readonly number[][], room: number): number[][] {
  const kept: number[][] = [];
  let used = 0;
  for (const step of steps) {
    used += step.length;
    if (used > room) break;
    kept.push(step);
  }
  return kept;
}

/** @throws UserError for a token that the tokenizer does not know */
export function idOf(tokenizer: TextEncoder, token: string): number {
  const id = tokenizer.tokenToId(token);
  if (id === undefined) throw new UserError(`the tokenizer does not know ${token}`);
  return id;
}
