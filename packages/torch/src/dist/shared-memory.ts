/** Memory that the processes of one machine have in common; see native/shared.h. */
import type { DType } from '../core/dtype.ts';
import { native } from '../core/native.ts';
import { keep } from '../core/scope.ts';
import { type Tensor, wrap } from '../core/tensor.ts';

/** A buffer made of one part a process, in the order of ranks. Each writes its own part; all read all of it in place, without a copy. */
export class SharedBuffer implements Disposable {
  readonly #id: number;

  constructor(id: number) {
    this.#id = id;
  }

  /** (elements) the start of this process's part; zeros at first. */
  part(dtype: DType, elements: number): Tensor {
    return keep(wrap(native.sharedPart(this.#id, dtype, elements)));
  }

  /**
   * Makes the whole buffer the memory of a tensor's storage, in place of what it has, until the tensor is disposed of or its storage is given other
   * memory (`setStorageBytes`). Counted as read from the others. Writing to their parts crashes.
   */
  attach(tensor: Tensor): void {
    native.attachSharedBuffer(this.#id, tensor);
  }

  /** The memory goes when the last tensor in it has gone. */
  [Symbol.dispose](): void {
    native.dropSharedBuffer(this.#id);
  }
}

/**
 * For ProcessGroup.shareMemory, in processes that all read each other's memory.
 * @param texts gives every process's text, in the order of ranks
 */
export function shareMemory(
  group: string,
  rank: number,
  partBytes: readonly number[],
  texts: (own: string) => string[],
): SharedBuffer[] | null {
  const file = native.newSharedMemory(partBytes.reduce((a, b) => a + b, 0));
  const files = texts(String(file)).map(Number);
  const ids = files.includes(-1) ? null : native.mapSharedMemory(group, rank, files, partBytes);
  const buffers = ids?.map((id) => new SharedBuffer(id)) ?? null;
  // Here all have mapped what they could.
  const all = texts(buffers ? 'mapped' : '').every((text) => text !== '');
  if (file >= 0) native.closeSharedMemory(file);
  if (all) return buffers;
  for (const buffer of buffers ?? []) buffer[Symbol.dispose]();
  return null;
}
