/** SmolVLM: vision tower, connector, decoder and language head under the checkpoint's names, as a VisionLanguageModel. */
import { cat, type FactoryOptions, type LinearLayer, Module, type Tensor } from '@ivtlr/torch';
import { UserError } from '../../errors.ts';
import { Decoder } from '../common/decoder.ts';
import { DecoderModel, languageHead } from '../common/decoder-model.ts';
import { initializeWeights } from '../common/initialize.ts';
import { sequentialPositions } from '../common/positions.ts';
import { numbersIn, runUnits, type VisionUnit } from '../common/vision-units.ts';
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

  /**
   * Tiles see nothing of each other, and on the CPU one goes through after the other: what stands between the layers of several together is so large
   * that the system hands out and takes back its memory each time.
   */
  encodeImages(images: readonly ProcessedImage[]): Tensor[] {
    return images.map((image) => {
      if (this.device === 'cpu') return runUnits(this.imageUnits(image));
      const features = runUnits(this.#units(image, 0, image.pixels.shape[0]!));
      checkTokens(image, features);
      return features;
    });
  }

  /** One tile after the other. */
  protected imageUnits(image: ProcessedImage): VisionUnit[] {
    const tiles = Array.from({ length: image.pixels.shape[0]! }, (_, tile) =>
      this.#units(image, tile, 1).map(({ work, run }): VisionUnit => {
        const behind: VisionUnit['run'] = (state) => [...state.slice(0, tile), ...run(state.slice(tile))];
        return { work, run: behind };
      }),
    );
    const together = (state: readonly Tensor[]) => {
      const features = cat([...state], 0);
      checkTokens(image, features);
      return [features];
    };
    return [...tiles.flat(), { work: 0, run: together }];
  }

  /** Features of some tiles, (N, D). */
  #units({ pixels, tokens }: ProcessedImage, first: number, count: number): VisionUnit[] {
    const { vision_model, connector } = this.model;
    const work = ((tokens * count) / pixels.shape[0]!) * numbersIn(connector);
    const connect: VisionUnit = { work, run: ([x]) => [connector.forward(x!).flatten(0, 1)] };
    return [...vision_model.units(pixels, first, count), connect];
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
  initialize(): void {
    const { layers, tied, vision } = this.config;
    const residualScale = (name: string) =>
      /vision_model.*(out_proj|fc2)\.weight$/.test(name) ? 1 / Math.sqrt(2 * vision.layers) : 1;
    initializeWeights(this, { layers, tied, residualScale });
  }
}

function checkTokens({ pixels, tokens }: ProcessedImage, features: Tensor): void {
  if (features.shape[0] !== tokens)
    throw new UserError(
      `an image of ${pixels.shape[0]} tiles gives ${features.shape[0]} image tokens, its preprocessing counted ${tokens}`,
    );
}
