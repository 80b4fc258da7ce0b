/**
 * What latent reasoning needs of a vision-language model. A family implements this in its own folder and nothing else knows it.
 * Shapes: B batch, S sequence, T positions so far, D hidden size, I width of an input row, V vocabulary, N image tokens, A position axes.
 */
import type { Device, DType, Module, SegmentedPass, Tensor } from '@ivtlr/torch';
import type { PromptImage } from '../text/prompt-image.ts';
import type { ImageSource, RawImage } from '../vision/image.ts';
import type { Preparation, PreparedImage } from '../vision/image-pool.ts';
import type { ResizeRule } from '../vision/resize.ts';
import type { TokenLayout } from '../vision/token-views.ts';
import type { KeyValueCache } from './common/kv-cache.ts';
import type { SlotCache, SlotCacheOptions } from './common/slot-cache.ts';

/** An image in the form a family's vision tower takes. */
export interface ProcessedImage extends TokenLayout, PromptImage {
  /** The family's own layout, float32; Qwen2-VL: (patches, 1176) in 2x2-merge order, Chameleon: (1, 3, rows, columns), SmolVLM: (tiles, 3, rows, columns). */
  pixels: Tensor;
  /** Patches before merging: time, rows, columns. */
  grid: readonly [number, number, number];
  source: ImageSource;
}

/** How a model reads images: at once, or in two parts of which the first can run in a thread. */
export interface ImageInputs {
  /** All of it. @throws UserError naming the image */
  processImage(image: RawImage): Promise<ProcessedImage>;
  /** Decoding and resizing, here. @throws UserError naming the image */
  prepare(image: RawImage): Promise<PreparedImage>;
  /** Decoding and resizing, in threads. */
  readonly preparation: Preparation;
  /** The tokens of an image that was decoded and resized. */
  layout(prepared: PreparedImage): TokenLayout & PromptImage;
  /** The rest, where libtorch is. */
  finish(prepared: PreparedImage): ProcessedImage;
  /** What every image is brought to, such as `280x280`; `native` where it keeps its shape. */
  readonly imageSize: string;
  /** How images are resized. */
  readonly resize: ResizeRule;
}

export type PositionKind = 'sequential' | 'mrope';

/**
 * Gives the parameters of a model made without memory their values, one parameter after the other in an order of its own. `taken` gets each with its
 * values in place and says whether they are kept elsewhere now: the parameter then loses its memory again, so that one at a time has any.
 */
export type FillParameters = (taken: (parameter: Tensor) => boolean) => void;

/** Positions of a prompt, and where each row goes on. */
export interface PromptPositions {
  /** (A, B, S) int64 */
  positions: Tensor;
  /** Position of the first token after the prompt, one a row; all axes go on from it together. */
  next: number[];
}

/** A run of columns: the first, and one past the last. */
export type ColumnSpan = readonly [start: number, end: number];

/** Columns that some rows of a forward pass may not attend to. */
export interface HiddenColumns {
  /** First and one-past-last row within this pass. */
  rows: readonly [number, number];
  /** Per batch row: absolute columns. */
  columns: readonly (readonly ColumnSpan[])[];
}

/** How many positions a cache for inference has room for; or one for training through it: as one graph, or cut at the layers. */
export type CacheCapacity = number | 'graph' | 'segments';

/** The last row's attention probabilities: not wanted, as numbers without a graph, or as part of the graph. */
export type AttentionScores = 'off' | 'detached' | 'graph';

export interface ForwardOptions {
  /** (A, B, S) int64 */
  positions: Tensor;
  /** Rows seen before; extended by this pass. */
  cache?: KeyValueCache | null;
  /** (B, S) bool, false for pads; null when there are none. */
  valid?: Tensor | null;
  hidden?: HiddenColumns | null;
  attentionScores?: AttentionScores;
  /** Cuts the pass at the decoder's layers; null (the default) leaves one graph. */
  segments?: SegmentedPass | null;
  /** With `segments`: run every layer again in the backward pass instead of keeping its activations. Only without cache and scores. */
  twice?: boolean;
}

export interface ForwardResult {
  /** (B, S, D), after the final norm. */
  hidden: Tensor;
  /** (B, T) float32 (float64 in a float64 model): the last row's attention probabilities, mean over all layers and heads. Null when they are off. */
  scores: Tensor | null;
}

/** Rows of a slot cache that run the same number of new positions in one pass. */
export interface RowGroup {
  /** b slots of the cache, in rising order. */
  slots: readonly number[];
  /** S: new positions of each row. */
  size: number;
  /** Whether they belong to prompts, whose sizes seldom come again. */
  prompt: boolean;
  /** Whether the attention probabilities of each row's last position are wanted. */
  scores: boolean;
  /** Per row: which of its new positions (first, one past the last) may not attend to which columns; null when all rows see everything. */
  hidden: readonly ({ rows: readonly [number, number]; columns: readonly ColumnSpan[] } | null)[] | null;
}

/** One pass over rows of different lengths, packed one behind the other in the order of their groups. Shapes: R all new positions. */
export interface RowsForwardOptions {
  /** (A, 1, R) int64 */
  positions: Tensor;
  /** Positions seen before; extended by this pass. */
  cache: SlotCache;
  groups: readonly RowGroup[];
}

export interface RowsForwardResult {
  /** (1, R, D), after the final norm. */
  hidden: Tensor;
  /** Per group that wants them, in order: (b, T) float32 attention probabilities at each row's last position, mean over all layers and heads; 0 beyond a row's length. */
  scores: Tensor[];
}

/**
 * One pass over neighbouring slots that is a function of tensors alone: nothing that changes from pass to pass decides a shape, an index or an
 * address, so that it can be recorded once and given to a GPU again. Shapes: n slots, S new positions of each, T columns read.
 */
export interface SlotsForwardOptions {
  /** With spare columns (SlotCacheOptions), and numbers in the first T columns (SlotCache.prepare). Its lengths are neither read nor changed. */
  cache: SlotCache;
  /** First of the n slots. */
  start: number;
  /** T: at least S more than the longest of the slots holds. */
  columns: number;
  /** (n) int64: positions that each slot holds; negative for one that takes no part, whose results mean nothing and whose keys and values stay as they are. */
  lengths: Tensor;
  /** (n, S) int64, the same for all axes. */
  positions: Tensor;
  /** Whether the attention probabilities of each slot's last position are wanted. */
  scores: boolean;
}

/**
 * A model's parameters in groups that a pass uses one after the other. A parameter belongs to one group; with tied weights the head is the
 * embedding.
 */
export interface ModelParts {
  vision: Module[];
  embedding: Module[];
  /** The last one has the final norm. */
  layers: Module[][];
  head: Module[];
}

/**
 * Module paths as transformers has them, which names in a LoRA adapter follow: `nested` below `model.language_model`, or `flat` as in this
 * project (`model.layers..`).
 */
export type PathStyle = 'nested' | 'flat';

export interface VisionLanguageModel {
  /** In today's transformers. */
  readonly pathStyle: PathStyle;
  readonly hiddenSize: number;
  /** I: D, and D more for every layer to whose result an input row adds further features (Qwen3-VL's DeepStack). */
  readonly inputSize: number;
  readonly vocabularySize: number;
  readonly imageTokenId: number;
  /** Positions the rotary embedding has angles for (max_position_embeddings). */
  readonly maxPositions: number;
  readonly dtype: DType;
  readonly device: Device;
  /** The parameters, under Hugging Face names. */
  readonly module: Module;
  /** ids (B, S) int64 -> (B, S, I). */
  embed(ids: Tensor): Tensor;
  /** Embeddings or hidden states (.., D) as input rows (.., I) without further features. */
  asInputs(vectors: Tensor): Tensor;
  /** Image tokens as they enter the decoder, (N, I) an image. */
  encodeImages(images: readonly ProcessedImage[]): Tensor[];
  /**
   * The same for one image, in units between which something else can run: yields after each unit how many prompt tokens would have been as much
   * work, and returns (N, I), the caller's to dispose.
   */
  encodeInUnits(image: ProcessedImage): Generator<number, Tensor>;
  /** Positions of left-padded prompts. `images` holds the pictures of each row in the order of their tokens. */
  promptPositions(
    ids: readonly (readonly number[])[],
    mask: readonly (readonly number[])[],
    images: readonly (readonly ProcessedImage[])[],
    kind: PositionKind,
  ): PromptPositions;
  newCache(batch: number, capacity: CacheCapacity): KeyValueCache;
  /** A cache for rows that come and go, with room for `capacity` positions each. */
  newSlotCache(slots: number, capacity: number, options?: SlotCacheOptions): SlotCache;
  /** inputs (1, R, I) of rows of different lengths -> hidden states; see RowsForwardOptions. */
  forwardRows(inputs: Tensor, options: RowsForwardOptions): RowsForwardResult;
  /** inputs (n, S, I) of n neighbouring slots -> hidden states (n, S, D) and scores (n, T); see SlotsForwardOptions. */
  forwardSlots(inputs: Tensor, options: SlotsForwardOptions): ForwardResult;
  /** inputs (B, S, I) -> hidden states; S new positions after the cache's. */
  forward(inputs: Tensor, options: ForwardOptions): ForwardResult;
  /** Parameters in groups that are used together: the parts that a segmented pass names. */
  parts(): ModelParts;
  /** hidden (rows, D) -> (rows, V). */
  logits(hidden: Tensor): Tensor;
}
