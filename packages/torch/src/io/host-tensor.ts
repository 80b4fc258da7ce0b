/** Copies of tensors in host memory that another thread can read while libtorch goes on changing the tensors themselves. */
import { noGrad } from '../core/autograd.ts';
import { shareBytes } from '../core/creation.ts';
import { type DType, elementSize } from '../core/dtype.ts';
import { native } from '../core/native.ts';
import { keep, scope } from '../core/scope.ts';
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
  /** Those that `copyLater` has promised. */
  #later: { into: Tensor; from: Tensor }[] = [];
  /** The native number of those that a thread makes. */
  #started: number | null = null;

  /** A copy of a tensor of any device; views are made contiguous. It is valid until `reuse()`. */
  copy(tensor: Tensor): HostTensor {
    const made = this.#take(tensor);
    // copy_ uses all of libtorch's threads and reads other devices without a copy in between.
    if (made.bytes.length > 0)
      scope(() => noGrad(() => void shareBytes(made.bytes, made.dtype, made.shape).copy_(tensor)));
    return made;
  }

  /**
   * As copy, made by a thread from `startCopies` to `finishCopies`: until then the tensor's elements stay as they are, and the copy has none. The tensor
   * itself may be disposed of. Tensors of other devices, and those that are not contiguous, are copied at once.
   */
  copyLater(tensor: Tensor): HostTensor {
    if (tensor.device !== 'cpu' || !tensor.isContiguous || tensor.numel === 0) return this.copy(tensor);
    const made = this.#take(tensor);
    this.#later.push({
      into: keep(shareBytes(made.bytes, made.dtype, made.shape)),
      from: keep(noGrad(() => tensor.detach())),
    });
    return made;
  }

  startCopies(): void {
    if (this.#later.length === 0) return;
    if (this.#started !== null) native.finishCopies(this.#started);
    const pairs = this.#later.splice(0);
    this.#started = native.startCopies(
      pairs.map(({ into }) => into),
      pairs.map(({ from }) => from),
    );
    for (const { into, from } of pairs) {
      into.dispose();
      from.dispose();
    }
  }

  /** Whether `finishCopies` would not wait. */
  get copiesMade(): boolean {
    return this.#later.length === 0 && (this.#started === null || native.copiesMade(this.#started));
  }

  /** Waits until all copies are made. */
  finishCopies(): void {
    this.startCopies();
    const started = this.#started;
    this.#started = null;
    if (started !== null) native.finishCopies(started);
  }

  /** Room for a copy. */
  #take({ dtype, shape, numel }: Tensor): HostTensor {
    const size = numel * elementSize(dtype);
    const buffer = this.#free.get(size)?.pop() ?? new SharedArrayBuffer(size);
    this.#used.push(buffer);
    return { dtype, shape, bytes: new Uint8Array(buffer) };
  }

  /** Gives the memory of all copies made so far to those made from now on. What was not needed again since the last call is let go. */
  reuse(): void {
    this.finishCopies();
    this.#free = new Map();
    for (const buffer of this.#used) {
      const same = this.#free.get(buffer.byteLength);
      if (same) same.push(buffer);
      else this.#free.set(buffer.byteLength, [buffer]);
    }
    this.#used = [];
  }
}
