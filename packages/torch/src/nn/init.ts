/**
 * How new parameters start: PyTorch's defaults, or nothing at all when weights are loaded right after.
 * Parameters belong to their module, not to the scope they happen to be made in, hence keep().
 */
import { empty, full } from '../core/creation.ts';
import type { Device, DType } from '../core/dtype.ts';
import { keep } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';

export interface FactoryOptions {
  /** Default 'float32'. */
  dtype?: DType;
  /** Default 'cpu'. */
  device?: Device;
}

let skipping = false;

/**
 * Builds modules without initial values: memory is reserved but not touched, which makes a large model that is about to be loaded start at once.
 * `fn` must not be asynchronous.
 */
export function skipInit<T>(fn: () => T): T {
  const before = skipping;
  skipping = true;
  try {
    return fn();
  } finally {
    skipping = before;
  }
}

/** U(-bound, bound). torch.nn.Linear and ConvNd start so, with bound 1 / sqrt(inputs of one output). */
export function uniformParameter(shape: readonly number[], bound: number, options: FactoryOptions = {}): Tensor {
  return parameter(shape, options, (tensor) => ops.uniform_(tensor, -bound, bound));
}

/** N(0, 1), as torch.nn.Embedding starts. */
export function normalParameter(shape: readonly number[], options: FactoryOptions = {}): Tensor {
  return parameter(shape, options, (tensor) => ops.normal_(tensor, 0, 1));
}

export function constantParameter(
  shape: readonly number[],
  value: number,
  { dtype = 'float32', device = 'cpu' }: FactoryOptions = {},
): Tensor {
  return keep(full(shape, value, { dtype, device, requiresGrad: true }));
}

function parameter(
  shape: readonly number[],
  { dtype = 'float32', device = 'cpu' }: FactoryOptions,
  fill: (tensor: Tensor) => unknown,
): Tensor {
  const tensor = empty(shape, { dtype, device });
  if (!skipping) fill(tensor);
  tensor.requiresGrad = true;
  return keep(tensor);
}
