/** Reading images in two parts, as all families do: the first in a thread or here, the second where libtorch is. */

import type { PromptImage } from '../../text/prompt-image.ts';
import type { RawImage } from '../../vision/image.ts';
import type { Preparation, PreparedImage } from '../../vision/image-pool.ts';
import { tellNote } from '../../vision/notes.ts';
import type { ResizeRule } from '../../vision/resize.ts';
import type { TokenLayout } from '../../vision/token-views.ts';
import type { ImageInputs, ProcessedImage } from '../types.ts';

/** A family's `prepare.ts`. */
export interface PrepareModule<Rules> {
  /** The compiled file, for threads. */
  url: URL;
  prepareImage(image: RawImage, rules: Rules): Promise<PreparedImage>;
}

/** `Rules` is plain data, so that it can be sent to a thread. One object serves any number of images. */
export abstract class PreparedInputs<Rules> implements ImageInputs {
  readonly #module: PrepareModule<Rules>;

  constructor(module: PrepareModule<Rules>) {
    this.#module = module;
  }

  /** How images are decoded and resized. */
  abstract get rules(): Rules;

  /** Pixels per side of one image token. */
  abstract readonly factor: number;

  /** What every image is brought to. */
  abstract get imageSize(): string;

  abstract get resize(): ResizeRule;

  /** Makes a tensor of an image that was prepared by `rules`. */
  abstract finish(prepared: PreparedImage): ProcessedImage;

  /** Rows and columns of the tokens of an image that was prepared by `rules`. */
  tokenGrid({ width, height }: { width: number; height: number }): [rows: number, columns: number] {
    return [height / this.factor, width / this.factor];
  }

  layout({ image }: PreparedImage): TokenLayout & PromptImage {
    const [rows, columns] = this.tokenGrid(image);
    return { tokenGrid: [rows, columns], tokens: rows * columns };
  }

  get preparation(): Preparation {
    return { module: this.#module.url, rules: this.rules };
  }

  /** Decodes and resizes one image. @throws UserError naming the image */
  async prepare(image: RawImage): Promise<PreparedImage> {
    const prepared = await this.#module.prepareImage(image, this.rules);
    tellNote(prepared.note);
    return prepared;
  }

  /** Decodes and processes one image. @throws UserError naming the image */
  async processImage(image: RawImage): Promise<ProcessedImage> {
    return this.finish(await this.prepare(image));
  }
}
