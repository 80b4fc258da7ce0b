/** A vision tower as parts that run one after the other: all at once, or with something else between them. */
import { keep, type Module, scope, type Tensor } from '@ivtlr/torch';

/** One part. */
export interface VisionUnit {
  /**
   * What this part makes of what the one before it left; the first one gets nothing, and the last one leaves the result alone. Tensors of `state`
   * that it does not return are freed.
   */
  run(state: readonly Tensor[]): readonly Tensor[];
  /** Multiplications of a number with a weight, or of two numbers in attention. */
  work: number;
}

/** All units at once, with a graph where gradients are wanted. */
export function runUnits(units: readonly VisionUnit[]): Tensor {
  let state: readonly Tensor[] = [];
  for (const unit of units) {
    const before = state;
    state = scope(() => unit.run(before));
    for (const tensor of before) if (!state.includes(tensor)) tensor.dispose();
  }
  return state[0]!;
}

/**
 * One unit after the other: yields the work of each while there is work left, and returns the result, the caller's to dispose.
 * @param scale what the work is divided by
 */
export function* yieldUnits(units: readonly VisionUnit[], scale: number): Generator<number, Tensor> {
  const last = units.findLastIndex(({ work }) => work > 0);
  let state: readonly Tensor[] = [];
  let whole = false;
  try {
    for (const [i, unit] of units.entries()) {
      const before = state;
      state = scope(() => keep(unit.run(before)));
      for (const tensor of before) if (!state.includes(tensor)) tensor.dispose();
      if (i < last) yield unit.work / scale;
    }
    whole = true;
    return state[0]!;
  } finally {
    if (!whole) for (const tensor of state) tensor.dispose();
  }
}

/** Of all parameters of a module: the multiplications of one position that goes through it. */
export function numbersIn(module: Module): number {
  return [...module.namedParameters().values()].reduce((sum, { numel }) => sum + numel, 0);
}
