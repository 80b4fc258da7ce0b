/**
 * What the families' models have in common: a vision encoder of their own in front of the shared decoder, and a language head. A family adds
 * `encodeImages`, `imageUnits`, `promptPositions`, and what is special about its logits and its random weights.
 */
import {
  type Device,
  type DType,
  type FactoryOptions,
  Linear,
  type LinearLayer,
  Module,
  type Tensor,
} from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { InitializeParameter } from '../family.ts';
import type {
  CacheCapacity,
  ForwardOptions,
  ForwardResult,
  ModelParts,
  PathStyle,
  PositionKind,
  ProcessedImage,
  PromptPositions,
  RowsForwardOptions,
  RowsForwardResult,
  SlotsForwardOptions,
  VisionLanguageModel,
} from '../types.ts';
import { Decoder, type DecoderConfig } from './decoder.ts';
import type { KeyValueCache } from './kv-cache.ts';
import type { SlotCache, SlotCacheOptions } from './slot-cache.ts';
import { numbersIn, type VisionUnit, yieldUnits } from './vision-units.ts';

export interface DecoderModelConfig extends DecoderConfig {
  imageTokenId: number;
  /** Whether the language head is the embedding's table. */
  tied: boolean;
}

/** See VisionLanguageModel for the methods. Subclasses define the modules in the order of the checkpoint's names. */
export abstract class DecoderModel<Config extends DecoderModelConfig> extends Module implements VisionLanguageModel {
  /** The decoder, or the module that holds it beside the vision tower, whichever the checkpoint's names say. */
  abstract readonly model: Decoder | (Module & { readonly text_model: Decoder });
  abstract readonly lm_head: LinearLayer;
  abstract readonly pathStyle: PathStyle;
  readonly #config: Config;

  constructor(config: Config) {
    super();
    this.#config = config;
  }

  abstract encodeImages(images: readonly ProcessedImage[]): Tensor[];

  /** What `encodeImages` does with one image, in parts; gives (N, I). */
  protected abstract imageUnits(image: ProcessedImage): VisionUnit[];

  abstract promptPositions(
    ids: readonly (readonly number[])[],
    mask: readonly (readonly number[])[],
    images: readonly (readonly ProcessedImage[])[],
    kind: PositionKind,
  ): PromptPositions;

  /** See InitializableModel. */
  abstract initialize(each?: InitializeParameter): void;

  protected get decoder(): Decoder {
    return this.model instanceof Decoder ? this.model : this.model.text_model;
  }

  get config(): Config {
    return this.#config;
  }
  get hiddenSize(): number {
    return this.#config.hiddenSize;
  }
  get inputSize(): number {
    return this.hiddenSize * (1 + this.decoder.deepstackLevels);
  }
  get vocabularySize(): number {
    return this.#config.vocabularySize;
  }
  get imageTokenId(): number {
    return this.#config.imageTokenId;
  }
  get maxPositions(): number {
    return this.#config.maxPositions;
  }
  get dtype(): DType {
    return this.decoder.embed_tokens.weight.dtype;
  }
  get device(): Device {
    return this.decoder.embed_tokens.weight.device;
  }
  get module(): Module {
    return this;
  }

  encodeInUnits(image: ProcessedImage): Generator<number, Tensor> {
    const perToken = this.decoder.layers.reduce((sum, layer) => sum + numbersIn(layer), 0);
    return yieldUnits(this.imageUnits(image), perToken);
  }

  embed(ids: Tensor): Tensor {
    return this.asInputs(this.decoder.embed_tokens.forward(ids));
  }

  asInputs(vectors: Tensor): Tensor {
    const further = this.inputSize - this.hiddenSize;
    return further === 0 ? vectors : ops.constant_pad_nd(vectors, [0, further]);
  }

  logits(hidden: Tensor): Tensor {
    return this.lm_head.forward(hidden);
  }

  newCache(batch: number, capacity: CacheCapacity): KeyValueCache {
    return this.decoder.newCache(batch, capacity);
  }

  newSlotCache(slots: number, capacity: number, options: SlotCacheOptions = {}): SlotCache {
    return this.decoder.newSlotCache(slots, capacity, options);
  }

  forwardRows(inputs: Tensor, options: RowsForwardOptions): RowsForwardResult {
    return this.decoder.forwardRows(inputs, options);
  }

  forwardSlots(inputs: Tensor, options: SlotsForwardOptions): ForwardResult {
    return this.decoder.forwardSlots(inputs, options);
  }

  forward(inputs: Tensor, options: ForwardOptions): ForwardResult {
    return this.decoder.forward(inputs, options);
  }

  parts(): ModelParts {
    const { embed_tokens, layers, norm } = this.decoder;
    const last = layers.length - 1;
    return {
      vision: this.visionModules,
      embedding: [embed_tokens],
      layers: layers.map((layer, i) => (i === last ? [layer, norm] : [layer])),
      head: [this.lm_head],
    };
  }

  /** What `encodeImages` uses besides the embedding. */
  protected abstract get visionModules(): Module[];

  override dispose(): void {
    super.dispose();
    this.decoder.dispose(); // its tables are no parameters
  }
}

/** The language head of a decoder; tied, its weight is the embedding's table. */
export function languageHead(config: DecoderModelConfig, decoder: Decoder, options: FactoryOptions): LinearLayer {
  const head = new Linear(config.hiddenSize, config.vocabularySize, { bias: false, ...options });
  if (config.tied) {
    head.weight.dispose();
    head.weight = decoder.embed_tokens.weight;
  }
  return head;
}
