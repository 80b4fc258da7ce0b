/** Images of the samples to come, prepared in threads while a batch is being answered. */
import type { RawImage } from '../data/sample.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import type { ProcessedImage } from '../models/types.ts';
import { ImagePool, type PreparedImage } from '../vision/image-pool.ts';

export class ImagesAhead {
  readonly #opened: Pick<LoadedModel, 'inputs' | 'processImage'>;
  readonly #pool: ImagePool | null;
  readonly #started = new Map<RawImage, Promise<PreparedImage>>();

  /** @param threads 0 prepares each image when it is taken. Threads start with the first encoded image. */
  constructor(opened: Pick<LoadedModel, 'inputs' | 'processImage'>, threads: number) {
    this.#opened = opened;
    this.#pool = threads > 0 ? new ImagePool(opened.inputs.preparation, threads) : null;
  }

  /** Hands the items on unchanged, `count` behind those whose images were started. */
  async *follow<T extends { sample: { image: RawImage } }>(items: AsyncIterable<T>, count: number): AsyncGenerator<T> {
    const waiting: T[] = [];
    for await (const item of items) {
      this.#start(item.sample.image);
      waiting.push(item);
      if (waiting.length > (this.#pool ? count : 0)) yield waiting.shift()!;
    }
    yield* waiting;
  }

  #start(image: RawImage): void {
    // Drawn images need no decoding.
    if (!this.#pool || image.kind !== 'encoded') return;
    const prepared = this.#pool.prepare(image);
    // Errors surface where the image is taken; until then they must not count as forgotten.
    prepared.catch(() => {});
    this.#started.set(image, prepared);
  }

  /** @throws UserError naming the image */
  async take(image: RawImage): Promise<ProcessedImage> {
    const prepared = this.#started.get(image);
    this.#started.delete(image);
    return prepared ? this.#opened.inputs.finish(await prepared) : this.#opened.processImage(image);
  }

  async close(): Promise<void> {
    await this.#pool?.close();
  }
}
