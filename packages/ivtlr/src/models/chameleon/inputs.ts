/**
 * Images as Chameleon reads them (Hugging Face `ChameleonImageProcessor` over Pillow): what is transparent blended over white, the shorter
 * side 512 (Lanczos), the middle 512x512 of that, `level * 0.0078 - 1`. The VQ encoder then makes one token of every 16x16 pixels.
 */
import { join } from 'node:path';
import type { Tensor } from '@ivtlr/torch';
import { z } from 'zod';
import { compiledModule } from '../../compiled-module.ts';
import { UserError } from '../../errors.ts';
import { readJson } from '../../files.ts';
import type { DecodeOptions } from '../../vision/decode.ts';
import type { PreparedImage } from '../../vision/image-pool.ts';
import { type Normalization, normalize } from '../../vision/normalize.ts';
import type { ResizeRule } from '../../vision/resize.ts';
import { PreparedInputs } from '../common/prepared-inputs.ts';
import { checkedConfig, only, readPreprocessorConfig, resizeFilter } from '../common/preprocessor-config.ts';
import type { ProcessedImage } from '../types.ts';
import { type PreparationRules, prepareImage } from './prepare.ts';

/** Pixels; a crop takes its square in memory whatever the image's size. */
const side = z.int().positive().max(8192);
const sides = z.strictObject({ width: side, height: side });

const preprocessorSchema = z.object({
  size: z.union([side, z.strictObject({ shortest_edge: side }), sides]).default(512),
  crop_size: z.union([side, sides]).default(512),
  resample: z.int().default(1),
  rescale_factor: z.number().positive().default(0.0078),
  image_mean: z.array(z.number()).length(3).default([1, 1, 1]),
  image_std: z.array(z.number().positive()).length(3).default([1, 1, 1]),
  do_convert_rgb: only(true),
  do_resize: only(true),
  do_center_crop: only(true),
  do_rescale: only(true),
  do_normalize: only(true),
  do_pad: only(false),
});

/** The part of config.json that says how many pixels become one token: each level but the first halves the image. */
const configSchema = z.object({
  vq_config: z.object({ channel_multiplier: z.array(z.number()).min(1).default([1, 1, 2, 2, 4]) }).prefault({}),
});

export interface ChameleonInputOptions extends Omit<DecodeOptions, 'alpha'> {
  /** Where `config` and `modelConfig` came from, for error messages. */
  source?: string;
  modelSource?: string;
  /** Default `pillow-13`. */
  resize?: ResizeRule;
}

/** Turns images into pixel tensors; one object serves any number of them. */
export class ChameleonInputs extends PreparedInputs<PreparationRules> {
  /** Pixels per side of one image token: 16 for the published models. */
  readonly factor: number;
  readonly rules: PreparationRules;
  readonly #normalization: Normalization;

  /**
   * @param config content of preprocessor_config.json; fields it lacks get Hugging Face's defaults.
   * @param modelConfig content of config.json.
   * @throws UserError for values this preprocessing cannot follow.
   */
  constructor(config: unknown = {}, modelConfig: unknown = {}, options: ChameleonInputOptions = {}) {
    const {
      source = 'preprocessor_config.json',
      modelSource = 'config.json',
      resize = 'pillow-13',
      ...decode
    } = options;
    super({ url: compiledModule('./prepare', import.meta.url), prepareImage });
    const fields = checkedConfig(preprocessorSchema, config, source);
    const { size, crop_size: crop, rescale_factor: rescale, image_mean: mean, image_std: std } = fields;
    const shortestEdge = typeof size === 'number' ? size : 'shortest_edge' in size ? size.shortest_edge : null;
    this.rules = {
      decode: { ...decode, alpha: 'blend' },
      filter: resizeFilter(fields.resample, source),
      resize,
      size: shortestEdge === null ? (size as PreparationRules['crop']) : { shortestEdge },
      crop: typeof crop === 'number' ? { width: crop, height: crop } : crop,
    };
    this.#normalization = { rescale, mean, std };
    const { vq_config: vq } = checkedConfig(configSchema, modelConfig, modelSource);
    this.factor = 2 ** (vq.channel_multiplier.length - 1);
    const { width, height } = this.rules.crop;
    if (width % this.factor !== 0 || height % this.factor !== 0) {
      throw new UserError(
        `${source}: crop_size ${width}x${height} must be multiples of ${this.factor}, the pixels of one image token ` +
          `(vq_config.channel_multiplier in ${modelSource} has ${vq.channel_multiplier.length} levels)`,
      );
    }
  }

  get imageSize(): string {
    const { width, height } = this.rules.crop;
    return `${width}x${height}`;
  }

  get resize(): ResizeRule {
    return this.rules.resize;
  }

  /** As the model folder says (readPreprocessorConfig, Hugging Face's defaults without it; config.json). */
  static fromFolder(folder: string, resize: ResizeRule = 'pillow-13'): ChameleonInputs {
    const { config, source } = readPreprocessorConfig(folder);
    const modelSource = join(folder, 'config.json');
    return new ChameleonInputs(config, readJson(modelSource, 'model config'), { source, modelSource, resize });
  }

  /** Makes a tensor (1, 3, H, W) of an image that was prepared by `rules`. */
  finish({ image, source }: PreparedImage): ProcessedImage {
    const [rows, columns] = this.tokenGrid(image);
    const planes: Tensor = normalize(image, this.#normalization);
    const pixels = planes.unsqueeze(0);
    planes.dispose();
    return { pixels, grid: [1, rows, columns], tokens: rows * columns, tokenGrid: [rows, columns], source };
  }
}
