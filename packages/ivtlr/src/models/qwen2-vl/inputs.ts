/**
 * Images as Qwen2-VL reads them (Hugging Face `Qwen2VLImageProcessor`): resized by the smart-resize rule, normalised, cut
 * into patches of 14x14 whose rows hold (channel, frame, y, x), ordered so that the four patches of one image token are
 * neighbours. A still image counts as two equal frames.
 */
import { join } from 'node:path';
import { shareBytes, type Tensor } from '@ivtlr/torch';
import { z } from 'zod';
import { compiledModule } from '../../compiled-module.ts';
import { UserError } from '../../errors.ts';
import { isListed, readJson } from '../../files.ts';
import type { DecodeOptions } from '../../vision/decode.ts';
import type { RgbImage } from '../../vision/image.ts';
import type { PreparedImage } from '../../vision/image-pool.ts';
import { normalizedLevels } from '../../vision/normalize.ts';
import type { ResizeFilter, ResizeRule } from '../../vision/resize.ts';
import { PreparedInputs } from '../common/prepared-inputs.ts';
import { checkedConfig, only, readPreprocessorConfig, resizeFilter } from '../common/preprocessor-config.ts';
import type { ImageSettings } from '../family.ts';
import type { ProcessedImage } from '../types.ts';
import { parseVisionConfig, type VisionPatches } from './config.ts';
import { type PreparationRules, prepareImage } from './prepare.ts';

export interface Qwen2VlInputOptions extends DecodeOptions {
  /**
   * Every image is first resized to this size, whatever its shape: 280x280 in the official IVT-LR code (100 image tokens).
   * Without it images keep their shape, as in Qwen2-VL itself.
   */
  fixedSize?: { width: number; height: number } | undefined;
  /** Default `pillow-13`. */
  resize?: ResizeRule;
}

/** The official IVT-LR code's size. */
export const OFFICIAL_SIZE = { width: 280, height: 280 } as const;

/** How the official IVT-LR code reads images: everything to one size by Pillow 11.1, RGBA over white. */
export const OFFICIAL_INPUTS: Qwen2VlInputOptions = { fixedSize: OFFICIAL_SIZE, alpha: 'white', resize: 'pillow-11' };

/** What a model's settings say about images. */
export function inputOptions({ profile, imageSize, resize }: ImageSettings): Qwen2VlInputOptions {
  return {
    ...(profile === 'official' && OFFICIAL_INPUTS),
    ...(imageSize && { fixedSize: parseImageSize(imageSize) }),
    ...(resize && { resize }),
  };
}

/** `native` -> undefined, `280x140` -> width and height. */
function parseImageSize(text: string): { width: number; height: number } | undefined {
  if (text === 'native') return undefined;
  const [width, height] = text.split('x').map(Number);
  return { width: width!, height: height! };
}

/** More would enlarge every small image to more memory than the largest photographs need. */
const pixelLimit = z
  .int()
  .positive()
  .max(1 << 24)
  .nullish();

const preprocessorSchema = z.object({
  patch_size: z.int().positive().default(14),
  temporal_patch_size: z.int().positive().default(2),
  merge_size: z.int().positive().default(2),
  min_pixels: pixelLimit,
  max_pixels: z.int().positive().nullish(),
  size: z
    .strictObject(
      {
        shortest_edge: pixelLimit,
        longest_edge: z.int().positive().nullish(),
        // Written by the first versions, beside the same two keys outside.
        min_pixels: z.unknown(),
        max_pixels: z.unknown(),
      },
      {
        error: ({ code }) =>
          code === 'unrecognized_keys' ? 'only shortest_edge and longest_edge are supported' : undefined,
      },
    )
    .partial()
    .nullish(),
  image_mean: z.array(z.number()).length(3).default([0.48145466, 0.4578275, 0.40821073]),
  image_std: z.array(z.number().positive()).length(3).default([0.26862954, 0.26130258, 0.27577711]),
  rescale_factor: z
    .number()
    .positive()
    .default(1 / 255),
  resample: z.int().default(3),
  do_convert_rgb: only(true),
  do_resize: only(true),
  do_rescale: only(true),
  do_normalize: only(true),
  do_center_crop: only(false),
  do_pad: only(false),
});

/** Turns images into patch tensors; one object serves any number of them. */
export class Qwen2VlInputs extends PreparedInputs<PreparationRules> {
  readonly patchSize: number;
  readonly mergeSize: number;
  readonly frames: number;
  readonly minPixels: number;
  readonly maxPixels: number;
  readonly filter: ResizeFilter;
  readonly options: Qwen2VlInputOptions;
  readonly #levels: Float32Array;

  /**
   * @param config content of preprocessor_config.json; fields it lacks get Hugging Face's defaults.
   * @param source where it came from, for error messages.
   * @throws UserError for values this preprocessing cannot follow.
   */
  constructor(config: unknown = {}, options: Qwen2VlInputOptions = {}, source = 'preprocessor_config.json') {
    super({ url: compiledModule('./prepare', import.meta.url), prepareImage });
    const fields = checkedConfig(preprocessorSchema, config, source);
    this.patchSize = fields.patch_size;
    this.mergeSize = fields.merge_size;
    this.frames = fields.temporal_patch_size;
    // Older configs say min_pixels and max_pixels; where both spellings stand, those win, as in Hugging Face.
    this.minPixels = fields.min_pixels ?? fields.size?.shortest_edge ?? 56 * 56;
    this.maxPixels = fields.max_pixels ?? fields.size?.longest_edge ?? 28 * 28 * 1280;
    if (this.minPixels > this.maxPixels)
      throw new UserError(`${source}: min_pixels ${this.minPixels} is larger than max_pixels ${this.maxPixels}`);
    this.#levels = normalizedLevels({ rescale: fields.rescale_factor, mean: fields.image_mean, std: fields.image_std });
    this.filter = resizeFilter(fields.resample, source);
    this.options = options;
    const { fixedSize } = options;
    if (fixedSize && (fixedSize.width % this.factor !== 0 || fixedSize.height % this.factor !== 0)) {
      throw new UserError(
        `image size ${fixedSize.width}x${fixedSize.height}: both sides must be multiples of ${this.factor} (patch size * merge size)`,
      );
    }
  }

  /**
   * As the model folder says (readPreprocessorConfig); where it says nothing Hugging Face's defaults hold.
   * @param patchesOf reads the vision tower's patches from config.json
   * @throws UserError also where the vision tower of config.json takes other patches
   */
  static fromFolder(
    folder: string,
    options: Qwen2VlInputOptions = {},
    patchesOf: (config: unknown, source: string) => VisionPatches = parseVisionConfig,
  ): Qwen2VlInputs {
    const { config, source } = readPreprocessorConfig(folder);
    const inputs = new Qwen2VlInputs(config, options, source);
    const modelSource = join(folder, 'config.json');
    if (!isListed(modelSource)) return inputs;
    const { patchSize, merge, frames } = patchesOf(readJson(modelSource, 'model config'), modelSource);
    for (const [key, own, model, wanted] of [
      ['patch_size', inputs.patchSize, 'patch_size', patchSize],
      ['merge_size', inputs.mergeSize, 'spatial_merge_size', merge],
      ['temporal_patch_size', inputs.frames, 'temporal_patch_size', frames],
    ] as const)
      if (own !== wanted)
        throw new UserError(`${source}: ${key} is ${own}, but vision_config.${model} in ${modelSource} is ${wanted}`);
    return inputs;
  }

  get imageSize(): string {
    const { fixedSize } = this.options;
    return fixedSize ? `${fixedSize.width}x${fixedSize.height}` : 'native';
  }

  get resize(): ResizeRule {
    return this.options.resize ?? 'pillow-13';
  }

  /** Pixels per side of one image token. */
  get factor(): number {
    return this.patchSize * this.mergeSize;
  }

  get rules(): PreparationRules {
    const { factor, minPixels, maxPixels, filter } = this;
    const { fixedSize, resize: _rule, ...decode } = this.options;
    return { decode, resize: { filter, rule: this.resize }, fixedSize, limits: { factor, minPixels, maxPixels } };
  }

  /** Makes a tensor of an image that was decoded and resized by `rules`. */
  finish({ image, source }: PreparedImage): ProcessedImage {
    const tokenGrid = this.tokenGrid(image);
    const [rows, columns] = tokenGrid;
    return {
      pixels: this.#patches(image),
      grid: [1, rows * this.mergeSize, columns * this.mergeSize],
      tokens: rows * columns,
      tokenGrid,
      source,
    };
  }

  /**
   * (patches, 3 * frames * patch * patch). Pixels go straight to their places: no tensor op is needed, and a training step
   * of 32 images of 112x112 spends a few milliseconds here.
   */
  #patches({ width, height, data }: RgbImage): Tensor {
    const { patchSize, mergeSize, frames, factor } = this;
    const levels = this.#levels;
    const patchArea = patchSize * patchSize;
    const values = new Float32Array((width / patchSize) * (height / patchSize) * 3 * frames * patchArea);
    let to = 0;
    for (let tokenTop = 0; tokenTop < height; tokenTop += factor) {
      for (let tokenLeft = 0; tokenLeft < width; tokenLeft += factor) {
        for (let member = 0; member < mergeSize * mergeSize; member++) {
          const top = tokenTop + Math.floor(member / mergeSize) * patchSize;
          const left = tokenLeft + (member % mergeSize) * patchSize;
          for (let channel = 0; channel < 3; channel++) {
            const frameStart = to;
            for (let y = top; y < top + patchSize; y++) {
              let from = (y * width + left) * 3 + channel;
              for (let x = 0; x < patchSize; x++, from += 3) values[to++] = levels[channel * 256 + data[from]!]!;
            }
            for (let frame = 1; frame < frames; frame++, to += patchArea) {
              values.copyWithin(to, frameStart, frameStart + patchArea);
            }
          }
        }
      }
    }
    const rowLength = 3 * frames * patchArea;
    return shareBytes(new Uint8Array(values.buffer), 'float32', [values.length / rowLength, rowLength]);
  }
}
