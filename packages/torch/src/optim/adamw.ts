/** AdamW on ATen's fused kernel (`aten::_fused_adamw_`): one pass over each parameter. Same numbers as torch.optim.AdamW. */
import { noGrad } from '../core/autograd.ts';
import { full, zeros } from '../core/creation.ts';
import type { DType } from '../core/dtype.ts';
import { keep, scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';

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

export interface AdamWState {
  /** Calls of `step()` so far. */
  step: number;
  /** `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step` and, with master weights, `NAME.master`. The live tensors, no copies. */
  tensors: Map<string, Tensor>;
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

export class AdamW {
  /** May be changed between steps. */
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

  /** Updates every parameter that has a gradient; the others, and their state, are left alone. */
  step(): void {
    this.#steps++;
    scope(() =>
      noGrad(() => {
        for (const group of this.#groups().values()) this.#stepGroup(group);
      }),
    );
  }

  /** Drops all gradients. */
  zeroGrad(): void {
    for (const { parameter } of this.#slots) parameter.grad = null;
  }

  stateDict(): AdamWState {
    const tensors = new Map<string, Tensor>();
    for (const slot of this.#slots) for (const [key, tensor] of stateOf(slot)) tensors.set(key, tensor);
    return { step: this.#steps, tensors };
  }

  /** Copies a state in, bit for bit. Throws RangeError, before anything is changed, when names, shapes or dtypes differ. */
  loadStateDict({ step, tensors }: AdamWState): void {
    const mine = this.stateDict().tensors;
    for (const [key, tensor] of mine) {
      const given = tensors.get(key);
      if (!given) throw new RangeError(`AdamW: the state lacks ${key}`);
      const kind = ({ dtype, shape }: Tensor) => `${dtype} [${shape.join(', ')}]`;
      if (kind(given) !== kind(tensor))
        throw new RangeError(`AdamW: ${key} is ${kind(given)} in the state, ${kind(tensor)} here`);
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

  /** Frees the state; parameters and their gradients are not touched. */
  dispose(): void {
    for (const slot of this.#slots) for (const [, tensor] of stateOf(slot)) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The kernel wants lists of one dtype on one device. */
  #groups(): Map<string, { slot: Slot; gradient: Tensor }[]> {
    const groups = new Map<string, { slot: Slot; gradient: Tensor }[]>();
    for (const slot of this.#slots) {
      const gradient = slot.parameter.grad;
      if (!gradient) continue;
      const key = `${slot.parameter.dtype} ${slot.parameter.device}`;
      const group = groups.get(key);
      if (group) group.push({ slot, gradient });
      else groups.set(key, [{ slot, gradient }]);
    }
    return groups;
  }

  #stepGroup(group: readonly { slot: Slot; gradient: Tensor }[]): void {
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
