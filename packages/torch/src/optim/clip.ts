/** Gradient clipping by the norm of all gradients together. */
import { noGrad } from '../core/autograd.ts';
import { stack } from '../core/creation.ts';
import { scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';

/**
 * Scales all gradients by max / (norm + 1e-6) when their common 2-norm exceeds `max`; returns the norm before.
 * As torch.nn.utils.clip_grad_norm_, except that norms of 16-bit gradients are taken in float32, and that gradients are left as they are when
 * the norm is not finite: the caller sees it in the returned number. Parameters without a gradient are skipped; with none at all the norm is 0.
 */
export function clipGradNorm(parameters: ReadonlyMap<string, Tensor> | Iterable<Tensor>, max: number): number {
  if (!(max > 0)) throw new RangeError(`clipGradNorm: the largest norm must be above 0, got ${max}`);
  return scope(() =>
    noGrad(() => {
      const gradients = gradientsOf(parameters);
      const total = normOf(gradients);
      if (!total) return 0;
      const norm = total.item();
      if (Number.isFinite(norm) && norm + 1e-6 > max) {
        const factor = ops.reciprocal(total.add(1e-6)).mul(max);
        for (const group of byKind(gradients)) ops._foreach_mul__Tensor(group, factor.to(group[0]!.device));
      }
      return norm;
    }),
  );
}

/** The norm of all gradients, a scalar float32 (float64 among float64 gradients) that nobody has waited for; null when there is none. Call inside a scope. */
export function gradNorm(parameters: ReadonlyMap<string, Tensor> | Iterable<Tensor>): Tensor | null {
  return scope(() => noGrad(() => normOf(gradientsOf(parameters))));
}

function gradientsOf(parameters: ReadonlyMap<string, Tensor> | Iterable<Tensor>): Tensor[] {
  const gradients: Tensor[] = [];
  for (const parameter of parameters instanceof Map ? parameters.values() : (parameters as Iterable<Tensor>)) {
    const { grad } = parameter;
    if (grad) gradients.push(grad);
  }
  return gradients;
}

function normOf(gradients: readonly Tensor[]): Tensor | null {
  const [first] = gradients;
  if (!first) return null;
  const { device } = first;
  const groups = byKind(gradients).map((group) => {
    const norms = ops._foreach_norm_Scalar(group, 2, wide(group[0]!));
    return group[0]!.device === device ? norms : norms.map((norm) => norm.to(device));
  });
  return ops.linalg_vector_norm(stack(groups.flat()));
}

function wide(gradient: Tensor): 'float64' | 'float32' {
  return gradient.dtype === 'float64' ? 'float64' : 'float32';
}

/** Foreach kernels are fast only on lists of one dtype on one device. */
function byKind(gradients: readonly Tensor[]): Tensor[][] {
  const groups = new Map<string, Tensor[]>();
  for (const gradient of gradients) {
    const key = `${gradient.dtype} ${gradient.device}`;
    const group = groups.get(key);
    if (group) group.push(gradient);
    else groups.set(key, [gradient]);
  }
  return [...groups.values()];
}
