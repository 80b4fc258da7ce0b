/** How a pass that is a function of tensors alone is recorded and given to a device again. */
import { CudaGraph, CudaStream, cudaSynchronize } from '@ivtlr/torch';

/** See CudaGraph, which is one. */
export interface StepGraph extends Disposable {
  capture(body: () => void): void;
  replay(): void;
}

export interface StepGraphs {
  /** How often a pass runs the ordinary way before it is recorded, since recording takes as long as several passes. */
  readonly ordinaryFirst: number;
  /** Runs `body` as it must have run before it is recorded. */
  warmUp(body: () => void): void;
  /** @param pool a graph whose memory for results in between is used too */
  newGraph(pool: StepGraph | null): StepGraph;
}

/** Of a GPU. @param index N of `cuda:N` */
export class CudaStepGraphs implements StepGraphs {
  readonly ordinaryFirst = 2;
  readonly #index: number;

  constructor(index: number) {
    this.#index = index;
  }

  /** On a stream of its own: libraries make what they need for one there, which a recording may not. */
  warmUp(body: () => void): void {
    cudaSynchronize(this.#index);
    using stream = new CudaStream(this.#index);
    stream.run(() => {
      body();
      body();
    });
    stream.synchronize();
  }

  newGraph(pool: StepGraph | null): StepGraph {
    return new CudaGraph({ index: this.#index, pool: pool instanceof CudaGraph ? pool : null });
  }
}
