/**
 * Chameleon: image tokenizer, decoder and language head under the checkpoint's names, as a VisionLanguageModel.
 * Source: Hugging Face ChameleonForConditionalGeneration.
 */
import {
  type DType,
  type FactoryOptions,
  type LinearLayer,
  Module,
  ones,
  scope,
  type Tensor,
  tensor,
  zeros,
} from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { UserError } from '../../errors.ts';
import { Decoder } from '../common/decoder.ts';
import { DecoderModel, languageHead } from '../common/decoder-model.ts';
import { initializeWeights } from '../common/initialize.ts';
import { sequentialPositions } from '../common/positions.ts';
import type { VisionUnit } from '../common/vision-units.ts';
import type { PathStyle, PositionKind, ProcessedImage, PromptPositions } from '../types.ts';
import type { ChameleonConfig } from './config.ts';
import { VqEncoder } from './vq.ts';

/** LayerNorm of each head, with weights of its own: x (B, S, heads, E), weight and bias (heads, E). */
class HeadLayerNorm extends Module {
  weight: Tensor;
  bias: Tensor;

  constructor(heads: number, headSize: number, options: FactoryOptions) {
    super();
    this.weight = this.parameter(ones([heads, headSize], options));
    this.bias = this.parameter(zeros([heads, headSize], options));
  }

  forward(x: Tensor): Tensor {
    return ops
      .layer_norm(x, [x.shape.at(-1)!], null, null, 1e-5)
      .mul(this.weight)
      .add(this.bias);
  }
}

class ChameleonBody extends Decoder {
  readonly vqmodel: VqEncoder;

  constructor(config: ChameleonConfig, options: FactoryOptions) {
    const headNorm = (heads: number, headSize: number) => new HeadLayerNorm(heads, headSize, options);
    super(config, { qkvBias: false, headNorm, normAfter: config.swinNorm }, options);
    this.vqmodel = new VqEncoder(config.vq, options);
  }
}

/** Stands for minus infinity where a token may not be written: the dtype's most negative number, as in Hugging Face. */
const LOWEST: Partial<Record<DType, number>> = {
  float64: -Number.MAX_VALUE,
  float32: -3.4028234663852886e38,
  bfloat16: -3.3895313892515355e38,
  float16: -65504,
};

export class Chameleon extends DecoderModel<ChameleonConfig> {
  readonly model: ChameleonBody;
  readonly lm_head: LinearLayer;
  /** (K) int64: vocabulary id of each image code. */
  readonly code_ids: Tensor;
  /** int64: vocabulary ids that are never written. */
  readonly image_ids: Tensor;

  constructor(config: ChameleonConfig, options: FactoryOptions = {}) {
    super(config);
    this.model = new ChameleonBody(config, options);
    this.lm_head = languageHead(config, this.model, options);
    const table = (ids: number[]) =>
      scope(() => tensor(ids, { dtype: 'int64' }).to({ device: options.device ?? 'cpu' }));
    this.code_ids = this.buffer('code_ids', table(config.codeIds), { persistent: false });
    this.image_ids = this.buffer('image_ids', table(config.imageIds), { persistent: false });
  }

  get pathStyle(): PathStyle {
    return 'flat';
  }

  protected get visionModules(): Module[] {
    return [this.model.vqmodel];
  }

  /** Vocabulary ids of an image's codes, row by row: pixels (1, 3, R, R) float32 -> (N) int64. */
  imageTokens(image: ProcessedImage): Tensor {
    return this.#idsOf(this.model.vqmodel.encode(image.pixels), image);
  }

  #idsOf(codes: Tensor, { pixels, tokens }: ProcessedImage): Tensor {
    if (codes.numel !== tokens)
      throw new UserError(
        `an image of ${pixels.shape.at(-1)}x${pixels.shape.at(-2)} gives ${codes.numel} image tokens, its preprocessing counted ${tokens}; the crop in preprocessor_config.json should be vq_config.resolution of config.json, ${this.config.vq.resolution}`,
      );
    return this.code_ids.indexSelect(0, codes.flatten());
  }

  /** One image at a time: a level of one holds 134 MB, and an image's codes must not depend on its neighbours. */
  encodeImages(images: readonly ProcessedImage[]): Tensor[] {
    return images.map((image) => this.embed(this.imageTokens(image)));
  }

  protected imageUnits(image: ProcessedImage): VisionUnit[] {
    const embed: VisionUnit = { work: 0, run: ([codes]) => [this.embed(this.#idsOf(codes!, image))] };
    return [...this.model.vqmodel.units(image.pixels), embed];
  }

  /** Image codes are never written: they get the lowest number, in training too, and no gradient. */
  override logits(hidden: Tensor): Tensor {
    const logits = super.logits(hidden);
    return ops.index_fill__int_Scalar(logits, -1, this.image_ids, LOWEST[logits.dtype]!);
  }

  /** @throws UserError for `mrope`, which this family has not */
  promptPositions(
    _ids: readonly (readonly number[])[],
    mask: readonly (readonly number[])[],
    _images: readonly (readonly ProcessedImage[])[],
    kind: PositionKind,
  ): PromptPositions {
    if (kind !== 'sequential')
      throw new UserError(`positions: ${kind} is for Qwen2-VL; Chameleon knows sequential positions only`);
    return sequentialPositions(mask, this.device);
  }

  /** Random weights for training from scratch. */
  initialize(): void {
    const { layers, tied } = this.config;
    initializeWeights(this, { layers, tied });
  }
}

/** Weights of the image decoder, which some exports hold and nothing here uses. */
const IMAGE_DECODER = /^model\.vqmodel\.decoder\./;

/** The name a weight of a checkpoint is stored under here, the checkpoint's own; null for what is not used. */
export function storedName(name: string): string | null {
  return IMAGE_DECODER.test(name) ? null : name;
}
