/** Gradients and optimiser state over the processes of a group; see ShardedParameters for the stages. */
import {
  AdamW,
  type AdamWOptions,
  type HostMemory,
  type HostTensor,
  keep,
  noGrad,
  scope,
  stack,
  type Tensor,
  zeros,
} from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { Round } from './collective-order.ts';
import type { Piece } from './flat.ts';
import type { ShardedParameters } from './sharded-parameters.ts';
import { loadState, type OptimizerShard, type OptimizerSource, type Update } from './update.ts';

/** What the optimiser moves: a whole parameter with stage 0, else the stretch of it that this process has. */
interface Moved {
  piece: Piece;
  parameter: Tensor;
  /** Its summed gradient; null where there was no reduction. */
  gradient(): Tensor | null;
}

export class ShardedUpdate implements Update {
  readonly sizes: ReadonlyMap<string, number>;
  readonly #sharded: ShardedParameters;
  readonly #options: AdamWOptions;
  /** Per shard, in its order. */
  readonly #moved: Moved[][];
  /** Null in a process whose shards are empty, as they may be of a model smaller than a page of memory for each. */
  #optimizer: AdamW | null;
  /** Counted here, because every process's part of a checkpoint says it. */
  #steps = 0;

  /** @param sharded becomes this object's */
  constructor(sharded: ShardedParameters, options: AdamWOptions) {
    this.#sharded = sharded;
    this.#options = options;
    this.sizes = new Map(
      sharded.trained.flatMap(({ flat }) => flat.parameters.map(({ name, tensor }) => [name, tensor.numel] as const)),
    );
    this.#moved = sharded.trained.map((shard) => {
      const { flat, parameters } = shard;
      if (parameters === null)
        return flat.parameters.map(({ name, tensor, offset }) => ({
          piece: { name, tensor, start: 0, end: tensor.numel, shardOffset: offset },
          parameter: tensor,
          gradient: () => tensor.grad,
        }));
      return flat.pieces(sharded.rank).map((piece) => {
        const length = piece.end - piece.start;
        return {
          piece,
          parameter: keep(noGrad(() => parameters.narrow(0, piece.shardOffset, length))),
          gradient: () => shard.gradients?.narrow(0, piece.shardOffset, length) ?? null,
        };
      });
    });
    this.#optimizer = this.#newOptimizer();
  }

  get observer(): ShardedParameters | null {
    return this.#sharded.followsPasses ? this.#sharded : null;
  }

  get reducesEveryRound(): boolean {
    return this.#sharded.stage >= 2;
  }

  startStep(): void {
    this.#sharded.startStep();
  }

  startRound(round: Round, reduces: boolean): void {
    this.#sharded.startRound(round, reduces);
  }

  finishRound(): void {
    this.#sharded.finishRound();
  }

  finishRounds(): void {
    this.#sharded.finishReductions();
  }

  touched(): boolean[] {
    return [...this.sizes.keys()].map((name) => this.#sharded.touched.has(name));
  }

  squares(): Tensor {
    return scope(() =>
      noGrad(() => {
        const norms = this.#ownGradients().map((gradients) =>
          ops.linalg_vector_norm(gradients, 2, null, false, wide(gradients)),
        );
        if (norms.length === 0) return zeros([], { dtype: 'float64' });
        return stack(norms.map((norm) => norm.to('float64')))
          .pow(2)
          .sum();
      }),
    );
  }

  /** With stage 0 every process has all gradients, and takes a part of them as its own. */
  #ownGradients(): Tensor[] {
    const { stage, trained, rank } = this.#sharded;
    if (stage > 0) return this.#gradients();
    const pieces = trained.flatMap(({ flat }) => flat.pieces(rank));
    return pieces.flatMap(({ tensor, start, end }) => tensor.grad?.flatten().narrow(0, start, end - start) ?? []);
  }

  /** The step's sums that this process has. Call inside a scope. */
  #gradients(): Tensor[] {
    const shards = this.#sharded.trained;
    if (this.#sharded.stage > 0) return shards.flatMap(({ gradients }) => gradients ?? []);
    return this.#moved.flat().flatMap(({ gradient }) => gradient() ?? []);
  }

  step(lr: number, factor: number, touched: readonly boolean[]): void {
    const chosen = new Set([...this.sizes.keys()].filter((_, i) => touched[i]));
    scope(() =>
      noGrad(() => {
        if (factor !== 1) for (const gradients of this.#gradients()) gradients.mul_(factor);
        for (const { piece, parameter, gradient } of this.#moved.flat())
          parameter.grad = chosen.has(piece.name) ? gradient() : null;
      }),
    );
    this.#steps++;
    if (this.#optimizer) {
      this.#optimizer.lr = lr;
      this.#optimizer.step();
      this.#optimizer.zeroGrad();
    }
    this.#sharded.shareParameters();
    this.discard();
  }

  discard(): void {
    this.#sharded.startStep();
  }

  whole<T>(body: () => T | Promise<T>): Promise<T> {
    return this.#sharded.whole(body);
  }

  copyParameters(memory: HostMemory, trainedOnly: boolean): Map<string, HostTensor> | null {
    if (this.#sharded.stage < 3) return null;
    const copies = new Map<string, HostTensor>();
    this.#sharded.eachParameter(trainedOnly, (name, values, stay) => {
      copies.set(name, stay ? memory.copyLater(values) : memory.copy(values));
    });
    return copies;
  }

  reset(): void {
    this.#optimizer?.dispose();
    this.#optimizer = this.#newOptimizer();
    this.#steps = 0;
  }

  /** Every process gives its own shard, with stage 0 too. */
  state(): OptimizerShard {
    const step = this.#steps;
    const tensors = this.#optimizer?.stateDict().tensors ?? new Map<string, Tensor>();
    if (this.#sharded.stage > 0) {
      const pieces = this.#moved
        .flat()
        .map(({ piece: { name, start, end, tensor } }) => ({ name, start, end, numel: tensor.numel }));
      return { step, tensors, pieces };
    }
    const own = new Map<string, Tensor>();
    const pieces = this.#sharded.trained.flatMap(({ flat }) => flat.pieces(this.#sharded.rank));
    for (const { name, start, end } of pieces) {
      for (const quantity of ['exp_avg', 'exp_avg_sq', 'step', 'master']) {
        const whole = tensors.get(`${name}.${quantity}`);
        if (whole)
          own.set(`${name}.${quantity}`, quantity === 'step' ? whole : whole.flatten().narrow(0, start, end - start));
      }
    }
    return {
      step,
      tensors: own,
      pieces: pieces.map(({ name, start, end, tensor }) => ({ name, start, end, numel: tensor.numel })),
    };
  }

  load(source: OptimizerSource): void {
    this.#steps = source.step;
    if (!this.#optimizer) return;
    const pieces = new Map(this.#moved.flat().map(({ piece }) => [piece.name, piece]));
    loadState(this.#optimizer, source, (name) => {
      const { start, end } = pieces.get(name)!;
      return [start, end];
    });
  }

  dispose(): void {
    this.#optimizer?.dispose();
    for (const { parameter, piece } of this.#moved.flat()) if (parameter !== piece.tensor) parameter.dispose();
    this.#sharded.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Null where this process has nothing to move, as with very small models. */
  #newOptimizer(): AdamW | null {
    const parameters = new Map(this.#moved.flat().map(({ piece, parameter }) => [piece.name, parameter]));
    return parameters.size === 0 ? null : new AdamW(parameters, this.#options);
  }
}

function wide({ dtype }: Tensor): 'float64' | 'float32' {
  return dtype === 'float64' ? 'float64' : 'float32';
}
