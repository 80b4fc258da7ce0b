/**
 * A growing batch of sequences: rows are pushed, then run through the model over its cache. Prompt, latent rows, written text and decoded
 * tokens all go this way, in training and inference alike.
 * Shapes: B batch, R rows of one push, D hidden size, A position axes, T all positions so far.
 */
import { cat, empty, fromBytes, type SegmentedPass, stack, type Tensor, tensor, toDevice } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { Batch } from '../data/collate.ts';
import type { KeyValueCache } from '../models/common/kv-cache.ts';
import type {
  AttentionScores,
  ColumnSpan,
  ForwardOptions,
  ForwardResult,
  PositionKind,
  VisionLanguageModel,
} from '../models/types.ts';
import { imageColumns, imageSpans, tokensOf } from './image-columns.ts';
import { hidesImageFromLatents, type LatentOptions } from './options.ts';

/** A batch's prompts as they enter the decoder. */
export interface EmbeddedPrompt {
  /** (B, P, I), image tokens filled in. */
  rows: Tensor;
  /** (B, P) bool, null when no row is padded. */
  valid: Tensor | null;
  /** (A, B, P) */
  positions: Tensor;
  next: number[];
  /** (B, N, I) image tokens of all of a row's pictures as they enter the decoder, short rows padded with zeros; null without images. */
  images: Tensor | null;
  /** Of each row's image tokens, and from the first to the last one of each image. */
  imageColumns: number[][];
  imageSpans: ColumnSpan[][];
}

/** Embeds columns [0, latentStart) of a batch. @param segments cuts what follows from it */
export function embedPrompt(
  model: VisionLanguageModel,
  batch: Batch,
  kind: PositionKind,
  segments: SegmentedPass | null = null,
): EmbeddedPrompt {
  const end = batch.latentStart;
  const ids = batch.inputIds.map((row) => row.slice(0, end));
  const mask = batch.attentionMask.map((row) => row.slice(0, end));
  const { positions, next } = model.promptPositions(ids, mask, batch.images, kind);
  const columns = ids.map((row) => imageColumns(row, model.imageTokenId));
  const present = batch.images.flat();
  const embed = (): readonly Tensor[] => {
    const rows = model.embed(toIds(ids, model.device));
    if (present.length === 0) return [rows];
    const encoded = model.encodeImages(present);
    const tokens = batch.images.map(tokensOf);
    const longest = Math.max(...tokens);
    let at = 0;
    const perRow = batch.images.map((images, b) => {
      checkImageTokens(columns[b]!, tokens[b]!);
      if (images.length === 0) return ops.zeros([longest, model.inputSize], rows.dtype, null, model.device);
      const own = images.length === 1 ? encoded[at]! : cat(encoded.slice(at, at + images.length), 0);
      at += images.length;
      return tokens[b] === longest ? own : ops.constant_pad_nd(own, [0, 0, 0, longest - tokens[b]!]);
    });
    const isImage = toDevice(tensor(ids.map((row) => row.map((id) => id === model.imageTokenId))), model.device);
    const filled = ops.masked_scatter(rows, isImage.unsqueeze(-1).expand(rows.shape), cat(encoded, 0).to(rows.dtype));
    return [filled, stack(perRow)];
  };
  const parts = present.length > 0 ? ['embedding', 'vision'] : ['embedding'];
  const embedded = segments ? segments.run({ parts, depth: -1 }, embed) : embed();
  const rows = embedded[0]!;
  const images = embedded[1] ?? null;
  return {
    rows,
    valid: validTensor(mask, model.device),
    positions,
    next,
    images,
    imageColumns: columns,
    imageSpans: columns.map((row, b) => imageSpans(row, batch.images[b]!)),
  };
}

function checkImageTokens(columns: readonly number[], tokens: number): void {
  if (columns.length !== tokens)
    throw new RangeError(`the prompt has ${columns.length} image tokens, its images ${tokens}`);
}

/** (B, R) int64 */
export function toIds(ids: readonly (readonly number[])[], device: string): Tensor {
  const made = tensor(BigInt64Array.from(ids.flat(), BigInt), { shape: [ids.length, ids[0]?.length ?? 0] });
  return toDevice(made, device);
}

/** (B, R) bool, or null when nothing is masked. */
export function validTensor(mask: readonly (readonly number[])[], device: string): Tensor | null {
  const flat = mask.flat();
  if (flat.every((value) => value !== 0)) return null;
  const made = fromBytes(
    Uint8Array.from(flat, (v) => (v ? 1 : 0)),
    'bool',
    [mask.length, mask[0]!.length],
  );
  return toDevice(made, device);
}

/** What stands in a sequence: the prompt, the rows of latent steps, and the text behind them. */
type Kind = 'prompt' | 'latent' | 'text';

interface Pushed {
  rows: Tensor;
  valid: Tensor | null;
  positions: Tensor;
  kind: Kind;
}

/** Who sees what in a sequence; default: everybody what came before. */
export type SequenceOptions = Partial<
  Pick<LatentOptions, 'hideImageFromLatents' | 'latentMemory' | 'hideImageFromText'>
>;

export class Sequence {
  readonly model: VisionLanguageModel;
  readonly cache: KeyValueCache | null;
  readonly prompt: EmbeddedPrompt;
  readonly segments: SegmentedPass | null;
  readonly #options: SequenceOptions;
  /** Position of the next token, one a row. */
  readonly #next: number[];
  #pending: Pushed[] = [];

  constructor(
    model: VisionLanguageModel,
    prompt: EmbeddedPrompt,
    cache: KeyValueCache | null,
    options: SequenceOptions = {},
    segments: SegmentedPass | null = null,
  ) {
    this.segments = segments;
    this.model = model;
    this.prompt = prompt;
    this.cache = cache;
    this.#options = options;
    this.#next = [...prompt.next];
    this.#pending.push({ rows: prompt.rows, valid: prompt.valid, positions: prompt.positions, kind: 'prompt' });
  }

  /** Rows waiting to be run. */
  get pending(): number {
    return this.#pending.reduce((sum, { rows }) => sum + rows.shape[1]!, 0);
  }

  /**
   * Adds rows (B, R, I) at the next positions: those of one latent step (`latent`), or text. `mask` says which of them count (default: all);
   * those that do not take no position. With `latentMemory: 'last'` the rows of the step before are forgotten, which keep their positions.
   */
  push(
    rows: Tensor,
    { mask, latent = false }: { mask?: readonly (readonly number[])[] | null; latent?: boolean } = {},
  ): void {
    if (latent && this.#options.latentMemory === 'last') this.#forgetSteps();
    const [B, R] = rows.shape as [number, number];
    const axes = this.prompt.positions.shape[0]!;
    const flat = new BigInt64Array(B * R);
    for (let b = 0; b < B; b++)
      for (let r = 0; r < R; r++) flat[b * R + r] = BigInt(mask && !mask[b]![r] ? this.#next[b]! : this.#next[b]!++);
    const positions = toDevice(fromBytes(new Uint8Array(flat.buffer), 'int64', [1, B, R]), this.model.device);
    const valid = mask ? validTensor(mask, this.model.device) : null;
    this.#pending.push({ rows, valid, positions: positions.expand([axes, B, R]), kind: latent ? 'latent' : 'text' });
  }

  /**
   * Runs all pending rows: hidden states (B, pending, D), and the last row's attention probabilities (B, T) when they are wanted.
   * @param twice see ForwardOptions
   */
  run(attentionScores: AttentionScores = 'off', twice = false): ForwardResult {
    const { inputs, ...options } = this.#take();
    const { cache, segments } = this;
    return this.model.forward(inputs, { ...options, cache, attentionScores, segments, twice });
  }

  #take(): { inputs: Tensor } & Omit<ForwardOptions, 'cache' | 'attentionScores'> {
    const parts = this.#pending;
    this.#pending = [];
    const join = (pick: (part: Pushed) => Tensor, dim: number) =>
      parts.length === 1 ? pick(parts[0]!) : cat(parts.map(pick), dim);
    const masked = parts.some(({ valid }) => valid);
    const B = this.prompt.rows.shape[0]!;
    const ones = (rows: Tensor) => empty([B, rows.shape[1]!], { dtype: 'bool', device: this.model.device }).fill_(1);
    return {
      inputs: join(({ rows }) => rows, 1),
      positions: join(({ positions }) => positions, 2),
      valid: masked ? join(({ rows, valid }) => valid ?? ones(rows), 1) : null,
      hidden: this.#hidden(parts),
    };
  }

  /** Everything behind the prompt, which is latent rows. */
  #forgetSteps(): void {
    const columns = this.prompt.rows.shape[1]!;
    if (this.cache && this.cache.length > columns) this.cache.rewind(columns);
    this.#pending = this.#pending.filter(({ kind }) => kind === 'prompt');
  }

  #hidden(parts: readonly Pushed[]) {
    const hides = {
      prompt: false,
      latent: hidesImageFromLatents(this.#options),
      text: this.#options.hideImageFromText ?? false,
    };
    // Prompt, latent rows and text stand in this order, so those that the image is hidden from stand together.
    let start = 0;
    let end = 0;
    let at = 0;
    for (const { rows, kind } of parts) {
      const size = rows.shape[1]!;
      if (hides[kind]) {
        if (end === 0) start = at;
        end = at + size;
      }
      at += size;
    }
    return end === 0 ? null : { rows: [start, end] as const, columns: this.prompt.imageSpans };
  }
}
