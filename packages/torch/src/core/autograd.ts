import { native } from './native.ts';
import { type Tensor, wrap } from './tensor.ts';

function withGrad<T>(enabled: boolean, body: () => T): T {
  const before = native.setGradEnabled(enabled);
  try {
    return body();
  } finally {
    native.setGradEnabled(before);
  }
}

/** Runs `body` (synchronous) without recording a graph. */
export function noGrad<T>(body: () => T): T {
  return withGrad(false, body);
}

/** Runs `body` (synchronous) recording a graph, inside noGrad() too. */
export function enableGrad<T>(body: () => T): T {
  return withGrad(true, body);
}

/**
 * Like noGrad(), and without version counters: tensors made inside can never enter a graph. With `on` false, `body` runs in normal mode
 * although the caller may be in inference mode: for tables that are made once and used in both.
 */
export function inferenceMode<T>(body: () => T, on = true): T {
  native.inferenceMode(true, on);
  try {
    return body();
  } finally {
    native.inferenceMode(false);
  }
}

export interface GradOptions {
  /** Gradient of each output; null (the default) for scalars. */
  gradOutputs?: (Tensor | null)[];
  retainGraph?: boolean;
  createGraph?: boolean;
  /** Return null for inputs the outputs do not depend on, instead of throwing. */
  allowUnused?: boolean;
}

/** Gradients of the outputs' sum with respect to each input; `.grad` is left alone. */
export function grad(outputs: readonly Tensor[], inputs: readonly Tensor[], o: GradOptions = {}): (Tensor | null)[] {
  const gradOutputs = o.gradOutputs ?? outputs.map(() => null);
  const create = o.createGraph ?? false;
  const ids = native.gradients(
    [...outputs],
    [...inputs],
    gradOutputs,
    o.retainGraph ?? create,
    create,
    o.allowUnused ?? false,
  );
  return ids.map((id) => (id === 0 ? null : wrap(id)));
}

/** Back-propagates from several tensors at once into the `.grad` of every leaf. */
export function backward(outputs: readonly Tensor[], gradients?: (Tensor | null)[], retainGraph = false): void {
  native.backward([...outputs], gradients ?? outputs.map(() => null), retainGraph, false);
}
