/** Pictures of the samples to come, prepared in threads while a batch is being answered. */
import type { RawImage } from '../data/sample.ts';
import type { ModelFolder } from '../engine/model-folder.ts';
import type { ProcessedImage } from '../models/types.ts';
import { PicturePool, type PreparedPicture } from '../vision/picture-pool.ts';

export class PicturesAhead {
  readonly #opened: Pick<ModelFolder, 'inputs' | 'processImage'>;
  readonly #pool: PicturePool | null;
  readonly #begun = new Map<RawImage, Promise<PreparedPicture>>();

  /** @param threads 0 prepares each picture when it is taken. Threads start with the first encoded picture. */
  constructor(opened: Pick<ModelFolder, 'inputs' | 'processImage'>, threads: number) {
    this.#opened = opened;
    this.#pool = threads > 0 ? new PicturePool(opened.inputs.preparation, threads) : null;
  }

  /** Hands the items on unchanged, `count` behind those whose pictures are begun. */
  async *follow<T extends { sample: { image: RawImage } }>(items: AsyncIterable<T>, count: number): AsyncGenerator<T> {
    const waiting: T[] = [];
    for await (const item of items) {
      this.#begin(item.sample.image);
      waiting.push(item);
      if (waiting.length > (this.#pool ? count : 0)) yield waiting.shift()!;
    }
    yield* waiting;
  }

  #begin(image: RawImage): void {
    // Drawn pictures need no decoding.
    if (!this.#pool || image.kind !== 'encoded') return;
    const picture = this.#pool.prepare(image);
    // Errors surface where the picture is taken; until then they must not count as forgotten.
    picture.catch(() => {});
    this.#begun.set(image, picture);
  }

  /** @throws UserError naming the picture */
  async take(image: RawImage): Promise<ProcessedImage> {
    const begun = this.#begun.get(image);
    this.#begun.delete(image);
    return begun ? this.#opened.inputs.finish(await begun) : this.#opened.processImage(image);
  }

  async close(): Promise<void> {
    await this.#pool?.close();
  }
}
