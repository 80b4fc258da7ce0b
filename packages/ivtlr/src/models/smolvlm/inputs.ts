/**
 * Images as SmolVLM reads them (Hugging Face `SmolVLMImageProcessor`, `Idefics3ImageProcessor`): the longer side enlarged or reduced to 2048
 * (Lanczos), both sides stretched to multiples of a tile's 512, cut into tiles, and the whole picture once more at the size of a tile. Every tile
 * becomes equally many tokens, which a prompt writes between markers that name the tile's row and column.
 */
import { join } from 'node:path';
import { cat, scope, type Tensor } from '@ivtlr/torch';
import { z } from 'zod';
import { compiledModule } from '../../compiled-module.ts';
import { UserError } from '../../errors.ts';
import { isListed, readJson } from '../../files.ts';
import type { PromptImage } from '../../text/prompt-image.ts';
import type { DecodeOptions } from '../../vision/decode.ts';
import type { RgbImage } from '../../vision/image.ts';
import type { PreparedImage } from '../../vision/image-pool.ts';
import { type Normalization, normalize } from '../../vision/normalize.ts';
import type { ResizeRule } from '../../vision/resize.ts';
import type { TokenLayout, TokenView } from '../../vision/token-views.ts';
import { PreparedInputs } from '../common/prepared-inputs.ts';
import { checkedConfig, only, readPreprocessorConfig, resizeFilter } from '../common/preprocessor-config.ts';
import type { ProcessedImage } from '../types.ts';
import { parseVisionConfig } from './config.ts';
import { type PreparationRules, prepareImage, type Size } from './prepare.ts';
import { writtenImage } from './written-image.ts';

/** Pixels; an image is enlarged to this whatever its size. */
const side = z.int().positive().max(8192);

const preprocessorSchema = z.object({
  size: z
    .union([z.strictObject({ longest_edge: side }), z.strictObject({ height: side, width: side })], {
      error: 'should be an object with longest_edge, or height and width',
    })
    .default({ longest_edge: 1456 }),
  max_image_size: z.strictObject({ longest_edge: side }).default({ longest_edge: 364 }),
  resample: z.int().default(1),
  rescale_factor: z
    .number()
    .positive()
    .default(1 / 255),
  image_mean: z.array(z.number()).length(3).default([0.5, 0.5, 0.5]),
  image_std: z.array(z.number().positive()).length(3).default([0.5, 0.5, 0.5]),
  do_image_splitting: z.boolean().nullish(),
  do_resize: z.boolean().nullish(),
  do_convert_rgb: only(true),
  do_rescale: only(true),
  do_normalize: only(true),
  // Padding adds empty tiles to a batch whose images have different numbers of them; here each image is by itself.
  do_pad: z.boolean().nullish(),
});

/** Pixels and patches of one tile, and the tokens that it becomes. */
export interface TileTokens {
  patchSize: number;
  /** Patches of a token along a side. */
  shuffle: number;
}

export interface SmolVlmInputOptions extends Omit<DecodeOptions, 'alpha'> {
  /** Every image is first brought to this size, whatever its shape; both sides multiples of a tile's. One tile's size: it is not cut. */
  fixedSize?: Size | undefined;
  /** Default `pillow-13`. */
  resize?: ResizeRule;
  /** Where `config` came from, for error messages. */
  source?: string;
}

/** Turns images into tiles; one object serves any number of them. */
export class SmolVlmInputs extends PreparedInputs<PreparationRules> {
  readonly rules: PreparationRules;
  /** Image tokens along a tile's side. */
  readonly tileSide: number;
  readonly #normalization: Normalization;
  readonly #fixedSize: Size | undefined;

  /**
   * @param config content of preprocessor_config.json; fields it lacks get Hugging Face's defaults.
   * @param tokens what the model makes of a tile
   * @throws UserError for values this preprocessing cannot follow.
   */
  constructor(config: unknown, tokens: TileTokens, options: SmolVlmInputOptions = {}) {
    const { source = 'preprocessor_config.json', resize = 'pillow-13', fixedSize, ...decode } = options;
    super({ url: compiledModule('./prepare', import.meta.url), prepareImage });
    const fields = checkedConfig(preprocessorSchema, config, source);
    const tile = fields.max_image_size.longest_edge;
    const patches = Math.floor(tile / tokens.patchSize);
    if (patches === 0 || patches % tokens.shuffle !== 0)
      throw new UserError(
        `${source}: max_image_size.longest_edge ${tile} gives ${patches} patches of ${tokens.patchSize} pixels along a side, which should be a multiple of scale_factor, ${tokens.shuffle}`,
      );
    this.tileSide = patches / tokens.shuffle;
    if (fixedSize && (fixedSize.width % tile !== 0 || fixedSize.height % tile !== 0))
      throw new UserError(
        `image size ${fixedSize.width}x${fixedSize.height}: both sides must be multiples of ${tile}, the pixels of a tile`,
      );
    const size = 'longest_edge' in fields.size ? { longestEdge: fields.size.longest_edge } : fields.size;
    this.#fixedSize = fixedSize;
    this.rules = {
      decode,
      filter: resizeFilter(fields.resample, source),
      resize,
      size: fixedSize ?? ((fields.do_resize ?? true) ? size : null),
      tile,
      split: fixedSize !== undefined || (fields.do_image_splitting ?? true),
    };
    this.#normalization = { rescale: fields.rescale_factor, mean: fields.image_mean, std: fields.image_std };
  }

  /**
   * As the model folder says (readPreprocessorConfig); where it says nothing Hugging Face's defaults hold.
   * @throws UserError also where processor_config.json counts other tokens a tile than config.json
   */
  static fromFolder(folder: string, options: Omit<SmolVlmInputOptions, 'source'> = {}): SmolVlmInputs {
    const { config, source } = readPreprocessorConfig(folder);
    const modelSource = join(folder, 'config.json');
    const vision = parseVisionConfig(readJson(modelSource, 'model config'), modelSource);
    const inputs = new SmolVlmInputs(config, vision, { ...options, source });
    const processorSource = join(folder, 'processor_config.json');
    if (!isListed(processorSource)) return inputs;
    const processorSchema = z.object({ image_seq_len: z.int().positive().optional() });
    const processor = checkedConfig(processorSchema, readJson(processorSource, 'processor config'), processorSource);
    const { image_seq_len: stored = inputs.tileSide ** 2 } = processor;
    if (stored !== inputs.tileSide ** 2)
      throw new UserError(
        `${processorSource}: image_seq_len is ${stored}, but a tile of ${inputs.rules.tile} pixels gives ${inputs.tileSide ** 2} image tokens by ${modelSource}`,
      );
    return inputs;
  }

  /** Pixels per side of one image token of a tile. */
  get factor(): number {
    return this.rules.tile / this.tileSide;
  }

  get imageSize(): string {
    return this.#fixedSize ? `${this.#fixedSize.width}x${this.#fixedSize.height}` : 'native';
  }

  get resize(): ResizeRule {
    return this.rules.resize;
  }

  /** The tokens of the tiles, then those of the whole picture. */
  override layout({ image, whole }: Pick<PreparedImage, 'image' | 'whole'>): TokenLayout & PromptImage {
    const side = this.tileSide;
    const tile = [side, side] as const;
    const rows = image.height / this.rules.tile;
    const columns = image.width / this.rules.tile;
    const tokenGrid = [rows * side, columns * side] as const;
    const tiled = { name: whole ? 'tiles' : 'whole', grid: tokenGrid, start: 0, tile };
    const views: TokenView[] = [tiled];
    const start = rows * columns * side ** 2;
    if (whole) views.push({ name: 'whole', grid: tile, start, tile });
    const tokens = whole ? start + side ** 2 : start;
    return { tokenGrid, views, tokens, written: writtenImage(whole ? { rows, columns } : null) };
  }

  /** Makes a tensor (tiles, 3, H, W) of an image that was prepared by `rules`: tiles row by row, then the whole picture. */
  finish({ image, whole, source }: PreparedImage): ProcessedImage {
    const { tile } = this.rules;
    const layout = this.layout({ image, whole });
    const pixels = scope(() => {
      const rows = image.height / tile;
      const columns = image.width / tile;
      const planes = normalize(image, this.#normalization)
        .view([3, rows, tile, columns, tile])
        .permute([1, 3, 0, 2, 4])
        .reshape([rows * columns, 3, tile, tile]);
      return whole ? cat([planes, this.#planes(whole)], 0) : planes;
    });
    return { ...layout, pixels, grid: [1, ...layout.tokenGrid], source };
  }

  #planes(image: RgbImage): Tensor {
    return normalize(image, this.#normalization).unsqueeze(0);
  }
}
