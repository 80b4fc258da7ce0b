/** Qwen2-VL: vision tower, decoder and language head under the checkpoint's names, as a VisionLanguageModel. */
import { type Device, type DType, type FactoryOptions, fromBytes, Linear, Module, type Tensor } from '@ivtlr/torch';
import { Decoder } from '../common/decoder.ts';
import { initializeWeights } from '../common/initialize.ts';
import type { KeyValueCache } from '../common/kv-cache.ts';
import { sequentialPositions } from '../common/positions.ts';
import type { SlotCache } from '../common/slot-cache.ts';
import type {
  ForwardOptions,
  ForwardResult,
  LayerChain,
  PathStyle,
  PositionKind,
  ProcessedImage,
  PromptPositions,
  RowsForwardOptions,
  RowsForwardResult,
  VisionLanguageModel,
} from '../types.ts';
import type { Qwen2VLConfig } from './config.ts';
import { Qwen2VisionTower } from './vision.ts';

export class Qwen2VL extends Module implements VisionLanguageModel {
  readonly visual: Qwen2VisionTower;
  readonly model: Decoder;
  readonly lm_head: Linear;
  readonly #config: Qwen2VLConfig;

  constructor(config: Qwen2VLConfig, options: FactoryOptions = {}) {
    super();
    this.#config = config;
    this.visual = new Qwen2VisionTower(config, options);
    this.model = new Decoder(config, { qkvBias: true, mropeSections: config.mropeSections }, options);
    this.lm_head = new Linear(config.hiddenSize, config.vocabularySize, { bias: false, ...options });
    if (config.tied) {
      this.lm_head.weight.dispose();
      this.lm_head.weight = this.model.embed_tokens.weight;
    }
  }

  get family(): string {
    return 'qwen2-vl';
  }
  get pathStyle(): PathStyle {
    return 'nested';
  }
  get config(): Qwen2VLConfig {
    return this.#config;
  }
  get hiddenSize(): number {
    return this.#config.hiddenSize;
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
    return this.model.embed_tokens.weight.dtype;
  }
  get device(): Device {
    return this.model.embed_tokens.weight.device;
  }
  get module(): Module {
    return this;
  }

  override dispose(): void {
    super.dispose();
    this.visual.dispose();
    this.model.dispose();
  }

  embed(ids: Tensor): Tensor {
    return this.model.embed_tokens.forward(ids);
  }

  encodeImages(images: readonly ProcessedImage[]): Tensor[] {
    return this.visual.encode(images);
  }

  newCache(batch: number, capacity: number | 'graph'): KeyValueCache {
    return this.model.newCache(batch, capacity);
  }

  newSlotCache(slots: number, capacity: number, options: { fixed?: boolean } = {}): SlotCache {
    return this.model.newSlotCache(slots, capacity, options);
  }

  forwardRows(inputs: Tensor, options: RowsForwardOptions): RowsForwardResult {
    return this.model.forwardRows(inputs, options);
  }

  forward(inputs: Tensor, options: ForwardOptions): ForwardResult {
    return this.model.forward(inputs, options);
  }

  layerChain(inputs: Tensor, options: Omit<ForwardOptions, 'cache' | 'attentionScores'>): LayerChain {
    return this.model.layerChain(inputs, options);
  }

  logits(hidden: Tensor): Tensor {
    return this.lm_head.forward(hidden);
  }

  /**
   * `sequential`: 0, 1, 2 .. for every token, image tokens too (what the official IVT-LR code passes). `mrope`: image tokens carry their
   * time, row and column, and text goes on after the largest of them (Hugging Face get_rope_index).
   */
  promptPositions(
    ids: readonly (readonly number[])[],
    mask: readonly (readonly number[])[],
    images: readonly (ProcessedImage | null)[],
    kind: PositionKind,
  ): PromptPositions {
    if (kind === 'sequential') return sequentialPositions(mask, this.device);
    const S = ids[0]!.length;
    const B = ids.length;
    const flat = new BigInt64Array(3 * B * S);
    const next = ids.map((row, b) => {
      let at = 0;
      for (let s = 0; s < S; s++) {
        const put = (axis: number, column: number, value: number) => {
          flat[(axis * B + b) * S + column] = BigInt(value);
        };
        if (!mask[b]![s]) continue;
        const image = images[b];
        if (row[s] === this.imageTokenId && image) {
          const [rows, columns] = image.tokenGrid;
          for (let n = 0; n < image.tokens; n++, s++) {
            put(0, s, at + Math.floor(n / (rows * columns)));
            put(1, s, at + (Math.floor(n / columns) % rows));
            put(2, s, at + (n % columns));
          }
          s--;
          at += Math.max(image.grid[0], rows, columns);
        } else {
          for (let axis = 0; axis < 3; axis++) put(axis, s, at);
          at++;
        }
      }
      return at;
    });
    const positions = fromBytes(new Uint8Array(flat.buffer), 'int64', [3, B, S]);
    return { positions: this.device === 'cpu' ? positions : positions.to({ device: this.device }), next };
  }

  /** Random weights for training from scratch. */
  initialize(): void {
    const { layers, tied, vision } = this.#config;
    const residualScale = (name: string) =>
      /blocks\.\d+\.(attn\.proj|mlp\.fc2)\.weight$/.test(name) ? 1 / Math.sqrt(2 * vision.depth) : 1;
    initializeWeights(this, { layers, tied, residualScale });
  }
}

/** The checkpoint's original name of a weight: newer exports nest both towers in `model`. */
export function originalName(name: string): string {
  if (name.startsWith('model.visual.')) return name.slice('model.'.length);
  if (name.startsWith('model.language_model.')) return `model.${name.slice('model.language_model.'.length)}`;
  return name;
}
