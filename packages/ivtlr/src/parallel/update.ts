/** What becomes of a step's gradients: they are collected over micro-batches and processes, clipped, and move the parameters. */
import {
  AdamW,
  type AdamWOptions,
  gradNorm,
  type HostMemory,
  type HostTensor,
  type SegmentObserver,
  scope,
  type Tensor,
  zeros,
} from '@ivtlr/torch';
import type { Round } from './collective-order.ts';

/** State of the optimiser that this process holds. */
export interface OptimizerShard {
  /** Updates so far. */
  step: number;
  /** By parameter and quantity, such as `NAME.exp_avg`: one-dimensional, the stretch that `pieces` names. `NAME.step` is a scalar. Live tensors. */
  tensors: Map<string, Tensor>;
  /** Elements `start` to `end` (exclusive) of each flattened parameter, of which it has `numel`. */
  pieces: { name: string; start: number; end: number; numel: number }[];
}

/** Where optimiser state comes from when a run goes on. */
export interface OptimizerSource {
  step: number;
  /** The flattened elements from `start` to `end` of one quantity (`exp_avg`, `exp_avg_sq`, `master`) of a parameter; `step` is a scalar. The caller's. */
  read(name: string, quantity: string, start: number, end: number): Tensor;
}

/** Calls of one step: `startStep`, then `startRound` and `finishRound` for each round, then `step` or `discard`. */
export interface Update extends Disposable {
  dispose(): void;
  /** To be told of the passes of a round; null where nothing depends on them. */
  readonly observer: SegmentObserver | null;
  /** Whether each round's gradients are sent, or only those of this process's last one. */
  readonly reducesEveryRound: boolean;
  startStep(): void;
  startRound(round: Round, reduces: boolean): void;
  /** Takes part in what other processes need of the round. */
  finishRound(): void;
  /** Waits for the gradients of all processes. */
  finishRounds(): void;
  /** Elements of the trained parameters by name, in the same order everywhere. */
  readonly sizes: ReadonlyMap<string, number>;
  /** In this order, which of them got a gradient here. */
  touched(): boolean[];
  /** Sum of the squares of this process's part of the gradients: a scalar, float64, not read yet. Call inside a scope. */
  squares(): Tensor;
  /** Moves the parameters that got a gradient anywhere, after scaling the gradients by `factor`. */
  step(lr: number, factor: number, touched: readonly boolean[]): void;
  discard(): void;
  /** Runs `body` with all parameters in place. All processes call it. */
  whole<T>(body: () => T | Promise<T>): Promise<T>;
  /**
   * Copies of the parameters by name, where they are not in place; null where they are. All processes call it; the first one gets them, by
   * `copyLater` where other processes hold them until all have come to the next step's sums.
   * @param trainedOnly leaves out those that are not trained
   */
  copyParameters(memory: HostMemory, trainedOnly: boolean): Map<string, HostTensor> | null;
  /** The optimiser starts anew. */
  reset(): void;
  state(): OptimizerShard;
  /** @throws RangeError when the state is of other parameters */
  load(source: OptimizerSource): void;
}

/** Everything in one process. */
export class WholeUpdate implements Update {
  readonly observer = null;
  readonly reducesEveryRound = false;
  readonly sizes: ReadonlyMap<string, number>;
  readonly #parameters: ReadonlyMap<string, Tensor>;
  readonly #options: AdamWOptions;
  #optimizer: AdamW;

  constructor(parameters: ReadonlyMap<string, Tensor>, options: AdamWOptions) {
    this.sizes = new Map([...parameters].map(([name, { numel }]) => [name, numel]));
    this.#parameters = parameters;
    this.#options = options;
    this.#optimizer = new AdamW(parameters, options);
  }

  startStep(): void {}
  startRound(): void {}
  finishRound(): void {}
  finishRounds(): void {}

  touched(): boolean[] {
    return [];
  }

  squares(): Tensor {
    const norm = gradNorm(this.#parameters);
    return norm ? norm.to('float64').pow(2) : zeros([], { dtype: 'float64' });
  }

  step(lr: number, factor: number): void {
    if (factor !== 1) scaleGradients(this.#parameters.values(), factor);
    this.#optimizer.lr = lr;
    scope(() => this.#optimizer.step());
    this.discard();
  }

  discard(): void {
    this.#optimizer.zeroGrad();
  }

  async whole<T>(body: () => T | Promise<T>): Promise<T> {
    return await body();
  }

  copyParameters(): null {
    return null;
  }

  reset(): void {
    this.#optimizer.dispose();
    this.#optimizer = new AdamW(this.#parameters, this.#options);
  }

  state(): OptimizerShard {
    const { step, tensors } = this.#optimizer.stateDict();
    const pieces = [...this.sizes].map(([name, numel]) => ({ name, start: 0, end: numel, numel }));
    return { step, tensors, pieces };
  }

  load(source: OptimizerSource): void {
    loadState(this.#optimizer, source, (name) => [0, this.sizes.get(name)!]);
  }

  dispose(): void {
    this.#optimizer.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The factor that brings gradients of this norm to at most `max`, as clipGradNorm has it. */
export function clipFactor(norm: number, max: number | null): number {
  return max === null || norm + 1e-6 <= max ? 1 : max / (norm + 1e-6);
}

function scaleGradients(parameters: Iterable<Tensor>, factor: number): void {
  scope(() => {
    for (const { grad } of parameters) grad?.mul_(factor);
  });
}

/** Loads the state of stretches of parameters. */
export function loadState(
  optimizer: AdamW,
  source: OptimizerSource,
  rangeOf: (name: string) => readonly [start: number, end: number],
): void {
  scope(() => {
    const tensors = new Map<string, Tensor>();
    for (const [key, { shape }] of optimizer.stateDict().tensors) {
      const dot = key.lastIndexOf('.');
      const name = key.slice(0, dot);
      const read = source.read(name, key.slice(dot + 1), ...rangeOf(name));
      tensors.set(key, read.shape.length === shape.length ? read : read.view(shape));
    }
    optimizer.loadStateDict({ step: source.step, tensors });
  });
}
