/**
 * How new parameters start: PyTorch's defaults, or nothing at all when weights are loaded right after.
 * Parameters belong to their module, not to the scope they happen to be made in, hence keep().
 */
import { empty, full } from '../core/creation.ts';
import type { Device, DType } from '../core/dtype.ts';
import { native } from '../core/native.ts';
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
let hollow = false;

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

/**
 * Builds modules whose parameters have shapes and no memory: each gives its own back as soon as it is made. Initial values are drawn all the same
 * (unless inside `skipInit`), so that the random numbers after it are those after a module with memory. `setStorageBytes` gives a parameter new
 * memory; whoever reads one without crashes. `fn` must not be asynchronous.
 */
export function withoutMemory<T>(fn: () => T): T {
  const before = hollow;
  hollow = true;
  try {
    return fn();
  } finally {
    hollow = before;
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
  return finish(full(shape, value, { dtype, device }));
}

function parameter(
  shape: readonly number[],
  { dtype = 'float32', device = 'cpu' }: FactoryOptions,
  fill: (tensor: Tensor) => unknown,
): Tensor {
  const tensor = empty(shape, { dtype, device });
  if (!skipping) fill(tensor);
  return finish(tensor);
}

function finish(tensor: Tensor): Tensor {
  if (hollow) native.setStorageBytes(tensor, 0);
  tensor.requiresGrad = true;
  return keep(tensor);
}
