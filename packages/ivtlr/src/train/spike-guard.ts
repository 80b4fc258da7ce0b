/** Notices a step whose loss is far above what the steps before it had: a damaged sample, or a run about to diverge. */
import type { GuardOptions } from './options.ts';

/** Steps that are looked back on, and how many are needed before anything can be a spike. */
const WINDOW = 50;
const NEEDED = 10;

export class SpikeGuard {
  readonly #factor: number | null;
  #recent: number[] = [];

  constructor({ spikeFactor }: GuardOptions) {
    this.#factor = spikeFactor;
  }

  /** A new phase has losses of its own. */
  reset(): void {
    this.#recent = [];
  }

  /** Takes note of a step's loss. Returns the usual loss (a median) where this one is a spike, else null. */
  look(loss: number): number | null {
    if (this.#factor === null) return null;
    if (this.#recent.length >= NEEDED) {
      const sorted = this.#recent.toSorted((a, b) => a - b);
      const median = sorted[sorted.length >> 1]!;
      if (loss > this.#factor * median) return median;
    }
    this.#recent.push(loss);
    if (this.#recent.length > WINDOW) this.#recent.shift();
    return null;
  }
}
