/** Images that the vision tower reads a piece at a time, before the row that asks about them joins a batch. */
import { inferenceMode, type Tensor } from '@ivtlr/torch';
import type { ProcessedImage, VisionLanguageModel } from '../models/types.ts';

interface Encoding {
  units: Generator<number, Tensor>;
  /** (N, D), once it is there. */
  encoded: Tensor | null;
}

export class ImagesAhead {
  readonly #model: VisionLanguageModel;
  readonly #images = new Map<ProcessedImage, Encoding>();
  /** Prompt tokens whose work the last `advance` has done. */
  work = 0;

  constructor(model: VisionLanguageModel) {
    this.#model = model;
  }

  /**
   * Runs as many units of the tower as make up a piece, at least one.
   * @param most prompt tokens whose work a piece may take
   * @returns whether nothing of the image is left
   */
  advance(image: ProcessedImage, most: number): boolean {
    let encoding = this.#images.get(image);
    if (!encoding) {
      encoding = { units: this.#model.encodeInUnits(image), encoded: null };
      this.#images.set(image, encoding);
    }
    for (this.work = 0; encoding.encoded === null && this.work < most; ) this.work += next(encoding);
    return encoding.encoded !== null;
  }

  /** Whether nothing of the image is left. */
  isRead(image: ProcessedImage): boolean {
    return (this.#images.get(image)?.encoded ?? null) !== null;
  }

  /** The whole encoding of an image that was begun, (N, D), which stays this object's; null for one that was not. */
  get(image: ProcessedImage): Tensor | null {
    const encoding = this.#images.get(image);
    if (!encoding) return null;
    while (encoding.encoded === null) next(encoding);
    return encoding.encoded;
  }

  /** Frees what there is of an image. */
  forget(image: ProcessedImage): void {
    const encoding = this.#images.get(image);
    encoding?.units.return(undefined as never);
    encoding?.encoded?.dispose();
    this.#images.delete(image);
  }

  dispose(): void {
    for (const image of [...this.#images.keys()]) this.forget(image);
  }
}

/** One unit. @returns the prompt tokens it stands for */
function next(encoding: Encoding): number {
  const { done, value } = inferenceMode(() => encoding.units.next());
  if (!done) return value;
  encoding.encoded = value;
  return 0;
}
