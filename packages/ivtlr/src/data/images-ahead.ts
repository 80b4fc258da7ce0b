/** Images prepared in threads before they are asked for: by a trainer, which walks by position (prefetch.ts), or along a stream of questions. */
import type { ImageInputs, ProcessedImage } from '../models/types.ts';
import type { PreparedImage } from '../vision/image-pool.ts';
import type { RawImage } from './sample.ts';

/** Threads that prepare images, such as an ImagePool. */
export interface ImageThreads {
  prepare(image: RawImage): Promise<PreparedImage>;
}

export class ImagesAhead {
  readonly #inputs: Pick<ImageInputs, 'finish' | 'processImage'>;
  readonly #threads: ImageThreads | null;
  /** Of images that were handed out. */
  readonly #handedOut = new WeakMap<RawImage, Promise<PreparedImage>>();

  /** @param threads belong to the caller; null prepares each image when it is processed. */
  constructor(inputs: Pick<ImageInputs, 'finish' | 'processImage'>, threads: ImageThreads | null) {
    this.#inputs = inputs;
    this.#threads = threads;
  }

  /** Starts on an image; null for what no thread prepares: drawn images need no decoding. */
  start(image: RawImage): Promise<PreparedImage> | null {
    if (!this.#threads || image.kind !== 'encoded') return null;
    const prepared = this.#threads.prepare(image);
    // Errors surface where the image is processed; until then they must not count as unhandled rejections.
    prepared.catch(() => {});
    return prepared;
  }

  /** From now on `processImage` takes what was started. */
  handOut(image: RawImage, prepared: Promise<PreparedImage> | null): void {
    if (prepared) this.#handedOut.set(image, prepared);
  }

  /** An image that was handed out, or any other. @throws UserError naming the image */
  async processImage(image: RawImage): Promise<ProcessedImage> {
    const prepared = this.#handedOut.get(image);
    this.#handedOut.delete(image);
    return prepared ? this.#inputs.finish(await prepared) : this.#inputs.processImage(image);
  }

  /** Hands the items on unchanged, `count` behind those whose images were started. */
  async *follow<T extends { sample: { images: readonly RawImage[] } }>(
    items: AsyncIterable<T>,
    count: number,
  ): AsyncGenerator<T> {
    const waiting: { item: T; prepared: (Promise<PreparedImage> | null)[] }[] = [];
    const next = () => {
      const { item, prepared } = waiting.shift()!;
      item.sample.images.forEach((image, i) => {
        this.handOut(image, prepared[i]!);
      });
      return item;
    };
    for await (const item of items) {
      waiting.push({ item, prepared: item.sample.images.map((image) => this.start(image)) });
      if (waiting.length > (this.#threads ? count : 0)) yield next();
    }
    while (waiting.length > 0) yield next();
  }
}
