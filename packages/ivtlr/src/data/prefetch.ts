/**
 * Samples and their images ahead of the trainer. What comes is decided by position alone, so it is the same with any number of threads, and a
 * run that goes on from a checkpoint continues as if it had never stopped.
 */
import type { ImageInputs, ProcessedImage } from '../models/types.ts';
import type { PreparedImage } from '../vision/image-pool.ts';
import type { RawImage, Sample } from './sample.ts';

/** Samples by place in the epoch, as the trainer knows them. */
export interface PlacedSamples {
  samplesPerEpoch: number;
  sample(epoch: number, place: number): Promise<Sample>;
}

export interface PrefetchOptions {
  /** Samples prepared beyond the one asked for: what memory holds at most. About a global batch or two. */
  ahead: number;
  /** Nothing is prepared beyond this epoch. */
  epochs?: number;
}

interface Entry {
  sample: Promise<Sample>;
  /** Null for images that are no files: drawn ones need no decoding. */
  image: Promise<PreparedImage | null>;
}

/**
 * Stands between a source and the trainer: `sample` hands out what the source has and starts on what follows; `processImage` then finds the
 * image prepared. Asking out of order is allowed, and only slower.
 */
export class Prefetch implements PlacedSamples {
  readonly #source: PlacedSamples;
  readonly #pool: { prepare(image: RawImage): Promise<PreparedImage> };
  readonly #inputs: Pick<ImageInputs, 'finish' | 'processImage'>;
  readonly #options: PrefetchOptions;
  /** By epoch * samplesPerEpoch + place. */
  readonly #entries = new Map<number, Entry>();
  /** Images of samples that were handed out. */
  readonly #handedOut = new WeakMap<RawImage, Promise<PreparedImage | null>>();

  constructor(
    source: PlacedSamples,
    pool: { prepare(image: RawImage): Promise<PreparedImage> },
    inputs: Pick<ImageInputs, 'finish' | 'processImage'>,
    options: PrefetchOptions,
  ) {
    this.#source = source;
    this.#pool = pool;
    this.#inputs = inputs;
    this.#options = options;
  }

  get samplesPerEpoch(): number {
    return this.#source.samplesPerEpoch;
  }

  /** Samples that are being prepared or wait; at most `ahead` after each call. */
  get waiting(): number {
    return this.#entries.size;
  }

  /** The source's sample, and its errors. */
  async sample(epoch: number, place: number): Promise<Sample> {
    const { samplesPerEpoch } = this;
    const { ahead, epochs = Number.POSITIVE_INFINITY } = this.#options;
    const position = epoch * samplesPerEpoch + place;
    const last = Math.min(position + ahead, epochs * samplesPerEpoch - 1);
    // After a jump (another epoch, a resumed run) what was prepared before is of no use.
    for (const key of this.#entries.keys()) if (key < position || key > last) this.#entries.delete(key);
    const entry = this.#entries.get(position) ?? this.#begin(position);
    this.#entries.delete(position);
    for (let next = position + 1; next <= last; next++) {
      if (!this.#entries.has(next)) this.#entries.set(next, this.#begin(next));
    }
    const sample = await entry.sample;
    this.#handedOut.set(sample.image, entry.image);
    return sample;
  }

  /** The image of a sample, or any other image. @throws UserError naming the image and its row */
  async processImage(image: RawImage): Promise<ProcessedImage> {
    const ready = await this.#handedOut.get(image);
    this.#handedOut.delete(image);
    return ready ? this.#inputs.finish(ready) : this.#inputs.processImage(image);
  }

  /** Forgets what waits. The pool belongs to the caller. */
  clear(): void {
    this.#entries.clear();
  }

  #begin(position: number): Entry {
    const { samplesPerEpoch } = this;
    const sample = this.#source.sample(Math.floor(position / samplesPerEpoch), position % samplesPerEpoch);
    const image = sample.then(({ image }) => (image.kind === 'encoded' ? this.#pool.prepare(image) : null));
    // Errors surface where the sample is asked for; until then they must not count as forgotten.
    sample.catch(() => {});
    image.catch(() => {});
    return { sample, image };
  }
}
