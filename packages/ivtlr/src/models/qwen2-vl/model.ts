/** Qwen2-VL and its relatives: vision tower, decoder and language head under the checkpoint's names, as a VisionLanguageModel. */
import { type FactoryOptions, fromBytes, type LinearLayer, type Module, type Tensor, toDevice } from '@ivtlr/torch';
import { Decoder, type DecoderTraits } from '../common/decoder.ts';
import { DecoderModel, languageHead } from '../common/decoder-model.ts';
import { initializeWeights } from '../common/initialize.ts';
import { sequentialPositions } from '../common/positions.ts';
import { runUnits, type VisionUnit } from '../common/vision-units.ts';
import type { InitializeParameter } from '../family.ts';
import type { PathStyle, PositionKind, ProcessedImage, PromptPositions } from '../types.ts';
import type { Qwen2VLConfig, QwenTextConfig } from './config.ts';
import { encodeByGrid, Qwen2VisionTower } from './vision.ts';

interface VisionTower extends Module {
  /** For pixels (I, P, values) float32 of I images of one grid, or (P, values) of one; gives image tokens as they enter the decoder, (I, N, width). */
  units(pixels: Tensor, grid: ProcessedImage['grid']): VisionUnit[];
}

/** What a configuration must say for QwenVL. */
interface QwenVLConfig extends QwenTextConfig {
  vision: { depth: number };
}

/** The parts that the families have in common; each has a tower of its own. */
export abstract class QwenVL<Config extends QwenVLConfig> extends DecoderModel<Config> {
  readonly visual: VisionTower;
  readonly model: Decoder;
  readonly lm_head: LinearLayer;

  constructor(config: Config, visual: VisionTower, traits: DecoderTraits, options: FactoryOptions) {
    super(config);
    this.visual = visual;
    this.model = new Decoder(config, { ...traits, mropeSections: config.mropeSections }, options);
    this.lm_head = languageHead(config, this.model, options);
  }

  get pathStyle(): PathStyle {
    return 'nested';
  }

  protected get visionModules(): Module[] {
    return [this.visual];
  }

  override dispose(): void {
    super.dispose();
    this.visual.dispose();
  }

  encodeImages(images: readonly ProcessedImage[]): Tensor[] {
    return encodeByGrid(images, (pixels, grid) => runUnits(this.visual.units(pixels, grid)));
  }

  protected imageUnits({ pixels, grid }: ProcessedImage): VisionUnit[] {
    const flat: VisionUnit = { work: 0, run: ([image_IND]) => [image_IND!.flatten(0, 1)] };
    return [...this.visual.units(pixels, grid), flat];
  }

  /**
   * `sequential`: 0, 1, 2 .. for every token, image tokens too (what the official IVT-LR code passes). `mrope`: image tokens carry their
   * time, row and column, and text goes on after the largest of them (Hugging Face get_rope_index).
   */
  promptPositions(
    ids: readonly (readonly number[])[],
    mask: readonly (readonly number[])[],
    images: readonly (readonly ProcessedImage[])[],
    kind: PositionKind,
  ): PromptPositions {
    if (kind === 'sequential') return sequentialPositions(mask, this.device);
    const S = ids[0]!.length;
    const B = ids.length;
    const flat = new BigInt64Array(3 * B * S);
    const next = ids.map((row, b) => {
      let at = 0;
      let seen = 0;
      for (let s = 0; s < S; s++) {
        const put = (axis: number, column: number, value: number) => {
          flat[(axis * B + b) * S + column] = BigInt(value);
        };
        if (!mask[b]![s]) continue;
        const image = row[s] === this.imageTokenId ? images[b]![seen++] : undefined;
        if (image) {
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
    return { positions: toDevice(positions, this.device), next };
  }

  /** Random weights for training from scratch. */
  initialize(each?: InitializeParameter): void {
    const { layers, tied, vision } = this.config;
    const residualScale = (name: string) =>
      /blocks\.\d+\.(attn\.proj|mlp\.fc2|mlp\.linear_fc2|mlp\.down_proj)\.weight$/.test(name)
        ? 1 / Math.sqrt(2 * vision.depth)
        : 1;
    initializeWeights(this, { layers, tied, residualScale }, each);
  }
}

export class Qwen2VL extends QwenVL<Qwen2VLConfig> {
  constructor(config: Qwen2VLConfig, options: FactoryOptions = {}) {
    super(config, new Qwen2VisionTower(config, options), { qkvBias: true }, options);
  }
}

/** The checkpoint's original name of a weight: newer exports nest both towers in `model`. */
export function originalName(name: string): string {
  if (name.startsWith('model.visual.')) return name.slice('model.'.length);
  if (name.startsWith('model.language_model.')) return `model.${name.slice('model.language_model.'.length)}`;
  return name;
}
