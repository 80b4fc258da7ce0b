import type { StepGraph, StepGraphs } from '../packages/ivtlr/src/latent/step-graph.ts';

/** Stands in for the graphs of a GPU: what was recorded runs again, one operator after the other. */
export class RunAgain implements StepGraphs {
  /** Bodies that were recorded, and how often one ran again. */
  recorded = 0;
  replayed = 0;
  readonly ordinaryFirst: number;
  readonly #around: (body: () => void) => void;

  /** @param around runs each replay */
  constructor(around: (body: () => void) => void = (body) => body(), ordinaryFirst = 0) {
    this.#around = around;
    this.ordinaryFirst = ordinaryFirst;
  }

  warmUp(body: () => void): void {
    body();
  }

  newGraph(): StepGraph {
    let recorded: (() => void) | null = null;
    return {
      capture: (body) => {
        recorded = body;
        this.recorded++;
      },
      replay: () => {
        this.replayed++;
        this.#around(recorded!);
      },
      [Symbol.dispose]: () => {
        recorded = null;
      },
    };
  }
}
