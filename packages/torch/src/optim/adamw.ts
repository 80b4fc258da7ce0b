/** AdamW on ATen's fused kernel (`aten::_fused_adamw_`): one pass over each parameter. Same numbers as torch.optim.AdamW. */
import { noGrad } from '../core/autograd.ts';
import { full, zeros } from '../core/creation.ts';
import type { DType } from '../core/dtype.ts';
import { keep, scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';
import type { Optimizer, OptimizerState } from './optimizer.ts';

export interface AdamWOptions {
  /** Default 1e-3. */
  lr?: number;
  /** Decay of the running means of gradient and squared gradient. Default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Default 1e-8. */
  eps?: number;
  /** Fraction of lr by which weights shrink per step, apart from the gradient. Default 0.01. */
  weightDecay?: number;
  /**
   * For 16-bit parameters: keep float32 copies of the weights and float32 state, step on those, and round to the parameters after each step.
   * Without it their state has 16 bits too and small steps are lost in rounding. Default false. Wider parameters are not affected.
   */
  masterWeights?: boolean;
}

interface Slot {
  name: string;
  parameter: Tensor;
  /** float32 copy that is stepped in place of a 16-bit parameter. */
  master: Tensor | null;
  expAvg: Tensor;
  expAvgSq: Tensor;
  /** float32 scalar: the kernel's bias correction, counted per parameter as PyTorch does. */
  step: Tensor;
}

interface Update {
  slot: Slot;
  gradient: Tensor;
}

/** State: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step` and, with master weights, `NAME.master`. */
export class AdamW implements Optimizer {
  /** So many elements of 16-bit gradients have a float32 copy at one time (64 MB); a larger gradient goes alone. */
  static readonly widenedElements = 2 ** 24;
  lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  readonly #slots: Slot[];
  #steps = 0;

  /** Parameters as a map by name (module.namedParameters()) or an array, whose indices are then the names in the state. */
  constructor(
    parameters: ReadonlyMap<string, Tensor> | readonly Tensor[],
    { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01, masterWeights = false }: AdamWOptions = {},
  ) {
    const inRange = lr >= 0 && eps >= 0 && weightDecay >= 0 && betas.every((beta) => beta >= 0 && beta < 1);
    if (!inRange)
      throw new RangeError(
        `AdamW: lr, eps and weightDecay are at least 0, betas in 0..1 (got ${JSON.stringify({ lr, eps, weightDecay, betas })})`,
      );
    this.lr = lr;
    this.betas = betas;
    this.eps = eps;
    this.weightDecay = weightDecay;
    const named = Array.isArray(parameters)
      ? parameters.map((parameter: Tensor, i): [string, Tensor] => [String(i), parameter])
      : [...(parameters as ReadonlyMap<string, Tensor>)];
    if (named.length === 0) throw new RangeError('AdamW: there are no parameters to train');
    if (new Set(named.map(([, parameter]) => parameter)).size < named.length)
      throw new RangeError('AdamW: a parameter is listed twice');
    this.#slots = named.map(([name, parameter]) => makeSlot(name, parameter, masterWeights));
  }

  step(): void {
    this.#steps++;
    scope(() =>
      noGrad(() => {
        for (const group of this.#groups()) scope(() => this.#stepGroup(group));
      }),
    );
  }

  zeroGrad(): void {
    for (const { parameter } of this.#slots) parameter.grad = null;
  }

  stateDict(): OptimizerState {
    const tensors = new Map<string, Tensor>();
    for (const slot of this.#slots) for (const [key, tensor] of stateOf(slot)) tensors.set(key, tensor);
    return { step: this.#steps, tensors };
  }

  loadStateDict({ step, tensors }: OptimizerState): void {
    const mine = this.stateDict().tensors;
    for (const [key, tensor] of mine) {
      const loaded = tensors.get(key);
      if (!loaded) throw new RangeError(`AdamW: the state lacks ${key}`);
      const kind = ({ dtype, shape }: Tensor) => `${dtype} [${shape.join(', ')}]`;
      if (kind(loaded) !== kind(tensor))
        throw new RangeError(`AdamW: ${key} is ${kind(loaded)} in the state, ${kind(tensor)} here`);
    }
    const unknown = [...tensors.keys()].find((key) => !mine.has(key));
    if (unknown !== undefined)
      throw new RangeError(`AdamW: the state has ${unknown}, which belongs to no parameter here`);
    scope(() =>
      noGrad(() => {
        for (const [key, tensor] of mine) tensor.copy_(tensors.get(key)!);
      }),
    );
    this.#steps = step;
  }

  dispose(): void {
    for (const slot of this.#slots) for (const [, tensor] of stateOf(slot)) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * The kernel wants lists of one dtype on one device. Lists that are stepped on float32 copies are short, since each brings float32 copies of
   * its gradients for a moment: all of them together would be twice as large as the model.
   */
  #groups(): Update[][] {
    const groups: Update[][] = [];
    const open = new Map<string, { group: Update[]; elements: number }>();
    for (const slot of this.#slots) {
      const gradient = slot.parameter.grad;
      if (!gradient) continue;
      const key = `${slot.parameter.dtype} ${slot.parameter.device}`;
      const elements = slot.master ? slot.master.numel : 0;
      let last = open.get(key);
      if (!last || (last.elements > 0 && last.elements + elements > AdamW.widenedElements)) {
        last = { group: [], elements: 0 };
        open.set(key, last);
        groups.push(last.group);
      }
      last.group.push({ slot, gradient });
      last.elements += elements;
    }
    return groups;
  }

  #stepGroup(group: readonly Update[]): void {
    const steps = group.map(({ slot }) => slot.step);
    ops._foreach_add__Scalar(steps, 1);
    const weights = group.map(({ slot }) => slot.master ?? slot.parameter);
    const gradients = group.map(({ slot, gradient }) => (slot.master ? gradient.to('float32') : gradient));
    ops._fused_adamw_(
      weights,
      gradients,
      group.map(({ slot }) => slot.expAvg),
      group.map(({ slot }) => slot.expAvgSq),
      [],
      steps,
      this.lr,
      this.betas[0],
      this.betas[1],
      this.weightDecay,
      this.eps,
      false,
      false,
    );
    for (const { slot } of group) if (slot.master) slot.parameter.copy_(slot.master);
  }
}

const NARROW = new Set<DType>(['float16', 'bfloat16']);

function makeSlot(name: string, parameter: Tensor, masterWeights: boolean): Slot {
  const { shape, dtype, device } = parameter;
  const useMaster = masterWeights && NARROW.has(dtype);
  const options = { dtype: useMaster ? ('float32' as const) : dtype, device };
  const state = keep({
    master: useMaster ? noGrad(() => parameter.to('float32')) : null,
    expAvg: zeros(shape, options),
    expAvgSq: zeros(shape, options),
    step: full([], 0, { device }),
  });
  return { name, parameter, ...state };
}

function stateOf({ name, master, expAvg, expAvgSq, step }: Slot): [string, Tensor][] {
  const tensors: [string, Tensor][] = [
    [`${name}.exp_avg`, expAvg],
    [`${name}.exp_avg_sq`, expAvgSq],
    [`${name}.step`, step],
  ];
  if (master) tensors.push([`${name}.master`, master]);
  return tensors;
}
