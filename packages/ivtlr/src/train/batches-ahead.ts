/** The next step's batch is started before this step runs, so that image threads work on it meanwhile. */
import { disposeBatches, type MicroBatch } from './batches.ts';

export class BatchesAhead {
  readonly #make: (step: number) => Promise<MicroBatch[]>;
  readonly #end: number;
  #next: Promise<MicroBatch[]> | null = null;

  /** @param make must depend on the step alone. @param end one past the last step; no batch of it or a later one is made. */
  constructor(make: (step: number) => Promise<MicroBatch[]>, end: number) {
    this.#make = make;
    this.#end = end;
  }

  /** The batch of a step; steps are taken in order. Its image tensors belong to the caller. The following batch is started. */
  async take(step: number): Promise<MicroBatch[]> {
    const started = this.#next ?? this.#make(step);
    this.#next = null;
    const micros = await started;
    if (step + 1 < this.#end) {
      this.#next = this.#make(step + 1);
      // An error of a batch prepared ahead is thrown by the `take` of its own step.
      this.#next.catch(() => {});
    }
    return micros;
  }

  /** Frees the batch that was started and will not be taken. */
  async close(): Promise<void> {
    const next = this.#next;
    this.#next = null;
    disposeBatches((await next?.catch(() => [])) ?? []);
  }
}
