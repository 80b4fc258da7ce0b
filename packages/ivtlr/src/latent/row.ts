/**
 * One question on its way through a batch: prompt, latent steps, written text. A row knows what it has to run next and what became of it; the
 * batch (row-batch.ts) runs the passes.
 * Shapes: S positions, D hidden size, N image tokens, K patches.
 */
import { Generator, keep, randint, scope, type Tensor } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import type { ProcessedImage } from '../models/types.ts';
import { Random } from '../random.ts';
import { imageColumns, tokensOf } from './image-columns.ts';
import type { TokenLogprobs } from './next-token.ts';
import { hidesImageFromLatents, type LastStepOptions, type LatentOptions, swaps } from './options.ts';
import { completeSampling, isGreedy, type Sampling } from './sampling.ts';
import { checkLatentOptions, checkPatchWishes, type PatchWishes } from './select.ts';
import { type StepTrace, Tracer } from './trace.ts';

export interface RowOptions extends LatentOptions {
  maxNewTokens: number;
  /** Tokens that end an answer. */
  eosIds: readonly number[];
  /** Say of every latent step what it looked at: it costs reading the attention probabilities of all columns. */
  trace?: boolean;
  /** The same for every written token, which costs a row of attention probabilities a layer and token besides. */
  traceText?: boolean;
  /** Keep what each latent step carries, as plain numbers. */
  latentStates?: boolean;
  /** Keep the logits that the first token was chosen from. */
  firstLogits?: boolean;
  /** Seed of the row's own random numbers, for random patches and drawn tokens; default: torch's own generator gives them. A whole number of at least 0. */
  seed?: number;
  /** How tokens are chosen; default: greedily. */
  sampling?: Partial<Sampling>;
  /** Say of every written token how likely it was, and so many of the likeliest ones (0 for none). */
  logprobs?: number;
  /**
   * Image tokens by latent step, each list in the order in which they are picked: they come before all others, even where an earlier step has
   * picked them. The rest of a step's K is picked as ever.
   */
  forcePatches?: readonly (readonly number[])[];
  /** Image tokens by latent step that it does not pick. */
  forbidPatches?: readonly (readonly number[])[];
  /** The only image that latent steps pick from, counted from 0; default: all. */
  pickFrom?: number;
  /** What the last latent step does otherwise. */
  lastStep?: LastStepOptions;
}

/** What a row is asked to do. */
export interface RowRequest {
  /** Prompt up to the latent steps, image tokens included. */
  promptIds: readonly number[];
  /** In the order of their tokens; empty for text alone. */
  images: readonly ProcessedImage[];
  /** Names the pictures, one each, such as a hash of its bytes: rows of the same pictures may take what others have left behind (see kept-prefixes.ts). */
  imageKeys?: readonly string[] | undefined;
  /** T */
  latentSteps: number;
  /** Read like written text after the latent steps, before the first token is chosen. */
  afterLatentIds: readonly number[];
  options: RowOptions;
}

/** Positions that a row takes at most, which the model must have angles for. */
export function positionsOf({ promptIds, latentSteps, afterLatentIds, options }: RowRequest): number {
  return promptIds.length + latentSteps * (options.patches + 1) + afterLatentIds.length + options.maxNewTokens;
}

/** Columns that a row fills at most in the cache: with `latentMemory: 'last'` one latent step takes the place of the one before. */
export function columnsOf(request: RowRequest): number {
  const held = request.options.latentMemory === 'last' ? Math.min(request.latentSteps, 1) : request.latentSteps;
  return positionsOf({ ...request, latentSteps: held });
}

/** `prefill` until the prompt has run, `latent` while latent steps follow, `text` while tokens do. */
export type Phase = 'prefill' | 'latent' | 'text' | 'ended';

/** What a latent step of a row has chosen and not yet inserted. */
export interface Chosen {
  /** (K, I) input rows of the picked image tokens; null when none was picked. */
  vision: Tensor | null;
  /** (1, I) last hidden state, as an input row. */
  text: Tensor;
}

/** What a latent step carries on, as plain numbers: before an ablation changes it. */
export interface LatentState {
  /** The latent text: the last hidden state as an input row. */
  text: Float32Array;
  /** Mean of the picked image tokens' input rows; null when none was picked. */
  patches: Float32Array | null;
}

export class Row {
  readonly request: RowRequest;
  phase: Phase = 'prefill';
  /** Image-token indices of each latent step, in the order they were inserted. */
  readonly picked: number[][] = [];
  /** Generated tokens, the final EOS included. */
  readonly tokens: number[] = [];
  readonly traces: StepTrace[] = [];
  readonly textTraces: StepTrace[] = [];
  /** One per latent step, with `latentStates`. */
  readonly states: LatentState[] = [];
  /** One per token, with `logprobs`. */
  readonly logprobs: TokenLogprobs[] = [];
  /** (V), with `firstLogits`. */
  firstLogits: number[] = [];
  /** This row's share of the passes it took part in. */
  readonly seconds = { prefill: 0, latents: 0, decode: 0 };

  /** @internal Everything below belongs to the batch. */
  slot = -1;
  /** (S, I) input rows still to be run; the first `pendingLatent` of them are latent rows. */
  pending: Tensor | null = null;
  pendingLatent = 0;
  /** (n, I) input rows of what is read after the latent steps; null when there is nothing, or nothing any more. */
  behind: Tensor | null = null;
  /** (A, S) int64 positions of the pending prompt; null once it has run. */
  promptPositions: Tensor | null = null;
  /** Tokens that were chosen on the device and are not read yet. */
  unread = 0;
  /** Position of the next token. */
  next = 0;
  /** (N, I) image tokens of all its pictures as they enter the decoder, one behind the other; null for text alone. */
  images: Tensor | null = null;
  /** Of the image tokens in the prompt. */
  readonly imageColumns: readonly number[];
  readonly used: Uint8Array;
  /** Image tokens that no step picks, unless it is forced to. */
  readonly #outside: readonly number[];
  readonly generator: Generator | null;
  readonly sampling: Sampling;
  /** What tokens are drawn by; null for a greedy row. */
  readonly random: Random | null;
  /** The different ids of prompt and answer, kept where they are penalised. */
  readonly seen: Set<number>;
  readonly tracer: Tracer | null;
  chosen: Chosen | null = null;
  /** With swapped latent steps: the rows that take them from each other, each from the one before it. */
  ring: readonly Row[] | null = null;

  constructor(request: RowRequest, imageTokenId: number) {
    const { promptIds, images, latentSteps, afterLatentIds, options } = request;
    if (promptIds.length === 0) throw new RangeError('a row needs a prompt of at least one token');
    for (const [name, value] of Object.entries({
      latentSteps,
      patches: options.patches,
      maxNewTokens: options.maxNewTokens,
      ...(options.seed !== undefined && { seed: options.seed }),
      ...(options.logprobs !== undefined && { logprobs: options.logprobs }),
    }))
      if (!Number.isSafeInteger(value) || value < 0)
        throw new RangeError(`${name} should be a whole number of at least 0, not ${value}`);
    if (latentSteps > 0) for (const of of [options, { ...options, ...options.lastStep }]) checkLatentOptions(of);
    const imageTokens = tokensOf(images);
    checkPatchWishes(options, latentSteps, imageTokens);
    this.#outside = tokensOutside(images, options.pickFrom);
    this.sampling = completeSampling(options.sampling);
    this.random = isGreedy(this.sampling) ? null : new Random(options.seed ?? drawnSeed());
    const penalised = this.sampling.repetitionPenalty !== 1;
    this.seen = new Set(penalised ? [...promptIds, ...afterLatentIds] : []);
    this.request = request;
    this.imageColumns = imageColumns(promptIds, imageTokenId);
    this.used = new Uint8Array(imageTokens);
    this.generator = options.seed === undefined ? null : new Generator(options.seed);
    const traced = options.trace || options.traceText;
    this.tracer = traced ? new Tracer(promptIds.length, this.imageColumns) : null;
    if (latentSteps === 0) this.tracer?.addText(afterLatentIds.length);
  }

  /** Latent steps taken, and those to come. */
  get steps(): number {
    return this.picked.length;
  }
  get latentStepsLeft(): number {
    return this.request.latentSteps - this.picked.length;
  }

  /** Whether the next whole pass of this row needs the attention probabilities of its last position. */
  get wantsScores(): boolean {
    const { options, latentSteps } = this.request;
    if (this.steps === latentSteps) return options.traceText ?? false;
    return options.trace || (this.images !== null && this.optionsOf(this.steps).latentVision !== 'off');
  }

  /** What a latent step of this row, counted from 0, goes by. */
  optionsOf(step: number): RowOptions {
    const { options, latentSteps } = this.request;
    return step === latentSteps - 1 ? { ...options, ...options.lastStep } : options;
  }

  /** First and one-past-last of the next `size` positions to run that may not see the image tokens; null when all of them may. */
  hiddenFromImage(size: number): readonly [number, number] | null {
    const { options, latentSteps } = this.request;
    if (this.request.images.length === 0) return null;
    const text = options.hideImageFromText;
    let start = 0;
    let end = text ? size : 0;
    if (this.phase === 'prefill') {
      // Without latent steps the text that stands behind them belongs to what is run first.
      const behind = latentSteps === 0 ? this.request.afterLatentIds.length : 0;
      start = Math.max(0, this.promptPositions!.shape[1]! - behind);
    } else if (hidesImageFromLatents(options)) end = Math.max(end, this.pendingLatent);
    else start = this.pendingLatent;
    return start < end ? [start, end] : null;
  }

  /** What the next latent step is asked to pick and not to pick. */
  get wishes(): PatchWishes {
    const { forcePatches, forbidPatches } = this.request.options;
    const forced = forcePatches?.[this.steps] ?? [];
    const forbidden = [...new Set([...(forbidPatches?.[this.steps] ?? []), ...this.#outside])];
    return { forced, forbidden: forbidden.filter((token) => !forced.includes(token)) };
  }

  /** Takes down what a latent step will insert. vision (K, I), text (1, I). Call inside a scope. */
  choose(vision: Tensor | null, text: Tensor): void {
    this.chosen = keep({ vision, text });
    if (!this.request.options.latentStates) return;
    const read = (row: Tensor) => Float32Array.from(row.to('float32').toNumbers());
    this.states.push({ text: read(text.select(0, 0)), patches: vision && read(vision.to('float32').mean(0)) });
  }

  /** Takes down a token that was chosen. */
  write(id: number, logprobs: TokenLogprobs | null): void {
    this.tokens.push(id);
    if (this.sampling.repetitionPenalty !== 1) this.seen.add(id);
    if (logprobs) this.logprobs.push(logprobs);
  }

  /** Columns the row fills at most in the cache. */
  get columns(): number {
    return columnsOf(this.request);
  }

  /** Goes on behind the first `size` pending positions. Call inside a scope. */
  skip(size: number): void {
    const { pending, promptPositions } = this;
    const rest = pending!.shape[0]! - size;
    const cut = (tensor: Tensor, dim: number) => (rest > 0 ? keep(tensor.narrow(dim, size, rest)) : null);
    this.pending = cut(pending!, 0);
    if (promptPositions) this.promptPositions = cut(promptPositions, 1);
    else this.next += size;
    pending!.dispose();
    promptPositions?.dispose();
  }

  forgetBehind(): void {
    this.behind?.dispose();
    this.behind = null;
  }

  /** Frees what the row holds. */
  dispose(): void {
    this.forgetBehind();
    for (const tensor of [this.pending, this.promptPositions, this.images, this.chosen?.vision, this.chosen?.text])
      tensor?.dispose();
    this.pending = null;
    this.promptPositions = null;
    this.images = null;
    this.chosen = null;
  }
}

/**
 * Makes rows that are added together partners, where they swap latent steps: each takes them from the one before it.
 * @throws RangeError for swapped rows that have no partner or take different numbers of latent steps
 */
export function joinRings(rows: readonly Row[]): void {
  const swapped = rows.filter(
    ({ request: { latentSteps, options } }) => latentSteps > 0 && swaps(options, options.lastStep),
  );
  if (swapped.length === 0) return;
  if (rows.length < 2) throw new RangeError('a row with swapped latent steps needs another one added with it');
  if (rows.some(({ request }) => request.latentSteps !== rows[0]!.request.latentSteps))
    throw new RangeError('rows that swap latent steps need equally many of them');
  for (const row of rows) row.ring = rows;
}

/** @throws UserError for an image that the question has not */
function tokensOutside(images: readonly ProcessedImage[], pickFrom: number | undefined): number[] {
  if (pickFrom === undefined) return [];
  if (!images[pickFrom])
    throw new UserError(
      `there is no image ${pickFrom + 1} to pick from; the question has ${images.length === 0 ? 'none' : images.length}`,
    );
  const first = tokensOf(images.slice(0, pickFrom));
  const end = first + images[pickFrom].tokens;
  return Array.from({ length: tokensOf(images) }, (_, token) => token).filter((token) => token < first || token >= end);
}

/** Unlike Math.random it follows manualSeed. */
function drawnSeed(): number {
  return scope(() => randint(0, 2 ** 32, [1]).toNumbers()[0]!);
}
