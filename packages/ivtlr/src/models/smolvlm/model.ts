/** SmolVLM: vision tower, connector, decoder and language head under the checkpoint's names, as a VisionLanguageModel. */
import { type FactoryOptions, type LinearLayer, Module, scope, type Tensor } from '@ivtlr/torch';
import { UserError } from '../../errors.ts';
import { Decoder } from '../common/decoder.ts';
import { DecoderModel, languageHead } from '../common/decoder-model.ts';
import { initializeWeights } from '../common/initialize.ts';
import { sequentialPositions } from '../common/positions.ts';
import type { InitializeParameter } from '../family.ts';
import type { PathStyle, PositionKind, ProcessedImage, PromptPositions } from '../types.ts';
import type { SmolVlmConfig } from './config.ts';
import { Connector, SiglipTower } from './vision.ts';

class SmolVlmBody extends Module {
  readonly vision_model: SiglipTower;
  readonly connector: Connector;
  readonly text_model: Decoder;

  constructor(config: SmolVlmConfig, options: FactoryOptions) {
    super();
    this.vision_model = new SiglipTower(config.vision, options);
    this.connector = new Connector(config, options);
    this.text_model = new Decoder(config, { qkvBias: false }, options);
  }
}

export class SmolVlm extends DecoderModel<SmolVlmConfig> {
  readonly model: SmolVlmBody;
  readonly lm_head: LinearLayer;

  constructor(config: SmolVlmConfig, options: FactoryOptions = {}) {
    super(config);
    this.model = new SmolVlmBody(config, options);
    this.lm_head = languageHead(config, this.model.text_model, options);
  }

  get pathStyle(): PathStyle {
    return 'flat';
  }

  protected get visionModules(): Module[] {
    return [this.model.vision_model, this.model.connector];
  }

  /** The tiles of one image go through together. */
  encodeImages(images: readonly ProcessedImage[]): Tensor[] {
    return images.map((image) => this.#encode(image));
  }

  #encode({ pixels, tokens }: ProcessedImage): Tensor {
    return scope(() => {
      const features = this.model.connector.forward(this.model.vision_model.forward(pixels)).flatten(0, 1);
      if (features.shape[0] !== tokens)
        throw new UserError(
          `an image of ${pixels.shape[0]} tiles gives ${features.shape[0]} image tokens, its preprocessing counted ${tokens}`,
        );
      return features;
    });
  }

  /** @throws UserError for `mrope`, which this family has not */
  promptPositions(
    _ids: readonly (readonly number[])[],
    mask: readonly (readonly number[])[],
    _images: readonly (readonly ProcessedImage[])[],
    kind: PositionKind,
  ): PromptPositions {
    if (kind !== 'sequential')
      throw new UserError(`positions: ${kind} is for Qwen2-VL; SmolVLM knows sequential positions only`);
    return sequentialPositions(mask, this.device);
  }

  /** Random weights for training from scratch. */
  initialize(each?: InitializeParameter): void {
    const { layers, tied, vision } = this.config;
    const residualScale = (name: string) =>
      /vision_model.*(out_proj|fc2)\.weight$/.test(name) ? 1 / Math.sqrt(2 * vision.layers) : 1;
    initializeWeights(this, { layers, tied, residualScale }, each);
  }
}
