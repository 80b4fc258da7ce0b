/**
 * Samples and their images ahead of the trainer. What comes is decided by position alone, so it is the same with any number of threads, and a
 * run that goes on from a checkpoint continues as if it had never stopped.
 */
import type { ImageInputs, ProcessedImage } from '../models/types.ts';
import type { PreparedImage } from '../vision/image-pool.ts';
import { ImagesAhead, type ImageThreads } from './images-ahead.ts';
import type { RawImage, Sample, SampleSource } from './sample.ts';

export interface PrefetchOptions {
  /** Samples prepared beyond the one asked for: what memory holds at most. About a global batch or two. */
  ahead: number;
  /** Nothing is prepared beyond this epoch. */
  epochs?: number;
  /** Whether the sample at a place of an epoch will be asked for; default: all will. */
  isOwn?(place: number): boolean;
}

type Entry = Promise<{ sample: Sample; prepared: (Promise<PreparedImage> | null)[] }>;

/**
 * Stands between a source and the trainer: `sample` hands out what the source has and starts on what follows; `processImage` then finds the
 * image prepared. Asking out of order is allowed, and only slower.
 */
export class Prefetch implements SampleSource {
  readonly #source: SampleSource;
  readonly #images: ImagesAhead;
  readonly #options: PrefetchOptions;
  /** By epoch * samplesPerEpoch + place. */
  readonly #entries = new Map<number, Entry>();

  constructor(
    source: SampleSource,
    threads: ImageThreads,
    inputs: Pick<ImageInputs, 'finish' | 'processImage'>,
    options: PrefetchOptions,
  ) {
    this.#source = source;
    this.#images = new ImagesAhead(inputs, threads);
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
    const position = epoch * samplesPerEpoch + place;
    const coming = this.#following(position);
    // After a jump (another epoch, a resumed run) what was prepared before is of no use.
    for (const key of this.#entries.keys()) if (key !== position && !coming.has(key)) this.#entries.delete(key);
    const entry = this.#entries.get(position) ?? this.#start(position);
    this.#entries.delete(position);
    for (const next of coming) if (!this.#entries.has(next)) this.#entries.set(next, this.#start(next));
    const { sample, prepared } = await entry;
    sample.images.forEach((image, i) => {
      this.#images.handOut(image, prepared[i]!);
    });
    return sample;
  }

  /** The image of a sample, or any other image. @throws UserError naming the image and its row */
  processImage(image: RawImage): Promise<ProcessedImage> {
    return this.#images.processImage(image);
  }

  /** Drops the images prepared so far. The threads belong to the caller. */
  clear(): void {
    this.#entries.clear();
  }

  /** The next `ahead` positions that will be asked for. */
  #following(position: number): Set<number> {
    const { samplesPerEpoch } = this;
    const { ahead, epochs = Number.POSITIVE_INFINITY, isOwn = () => true } = this.#options;
    const end = epochs * samplesPerEpoch;
    const found = new Set<number>();
    // No process is left out for longer than an epoch.
    const limit = Math.min(end, position + 1 + ahead + samplesPerEpoch);
    for (let next = position + 1; next < limit && found.size < ahead; next++) {
      if (isOwn(next % samplesPerEpoch)) found.add(next);
    }
    return found;
  }

  #start(position: number): Entry {
    const { samplesPerEpoch } = this;
    const asked = this.#source.sample(Math.floor(position / samplesPerEpoch), position % samplesPerEpoch);
    const entry = asked.then((sample) => ({
      sample,
      prepared: sample.images.map((image) => this.#images.start(image)),
    }));
    // Errors surface where the sample is asked for; until then they must not count as unhandled rejections.
    entry.catch(() => {});
    return entry;
  }
}
