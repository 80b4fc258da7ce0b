/** Copies of tensors in host memory that another thread can read while libtorch goes on changing the tensors themselves. */
import { noGrad } from '../core/autograd.ts';
import { shareBytes } from '../core/creation.ts';
import { type DType, elementSize } from '../core/dtype.ts';
import { scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';

/** A tensor's elements as raw little-endian bytes, in row-major order, outside libtorch. */
export interface HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Of a copy made by HostMemory: over a SharedArrayBuffer, which goes to a worker thread without being copied again. */
  readonly bytes: Uint8Array;
}

/** Tells a copy from a tensor of libtorch. */
export function isHostTensor(tensor: Tensor | HostTensor): tensor is HostTensor {
  return tensor.bytes instanceof Uint8Array;
}

/**
 * Makes host copies, and makes them again in the same memory: a run that copies the same tensors at every checkpoint holds them once, and
 * fresh memory, whose first use is slow, is only taken at the first one.
 */
export class HostMemory {
  #used: SharedArrayBuffer[] = [];
  /** By size. */
  #free = new Map<number, SharedArrayBuffer[]>();

  /** A copy of a tensor of any device; views are made contiguous. It is valid until `reuse()`. */
  copy(tensor: Tensor): HostTensor {
    const { dtype, shape, numel } = tensor;
    const size = numel * elementSize(dtype);
    const buffer = this.#free.get(size)?.pop() ?? new SharedArrayBuffer(size);
    this.#used.push(buffer);
    const bytes = new Uint8Array(buffer);
    // copy_ uses all of libtorch's threads and reads other devices without a copy in between.
    if (size > 0) scope(() => noGrad(() => void shareBytes(bytes, dtype, shape).copy_(tensor)));
    return { dtype, shape, bytes };
  }

  /** Gives the memory of all copies made so far to those made from now on. What was not needed again since the last call is let go. */
  reuse(): void {
    this.#free = new Map();
    for (const buffer of this.#used) {
      const same = this.#free.get(buffer.byteLength);
      if (same) same.push(buffer);
      else this.#free.set(buffer.byteLength, [buffer]);
    }
    this.#used = [];
  }
}
