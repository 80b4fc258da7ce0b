/** What a process does to itself rather than with others. */
import { native } from '../core/native.ts';
import type { Tensor } from '../core/tensor.ts';

/**
 * From now on this process ends when its parent has ended, however that was and whatever it is doing. Linux only.
 * @param parent its process id, as the parent has told it: one that ended before this process asked is then noticed too
 * @returns false when the parent is gone already
 */
export function dieWithParent(parent = process.ppid): boolean {
  return native.dieWithParent(parent);
}

/** Whether reading a file descriptor would not wait: there is something to read, or its end. Costs a few microseconds, a turn of the event loop many more. */
export function hasInput(fd: number): boolean {
  return native.hasInput(fd);
}

/**
 * Gives a tensor's storage new memory of so many bytes, with undefined content, or with 0 none. Views of it, those that autograd has saved too,
 * see the new memory; nothing is noticed as a change. Whoever reads a tensor without memory crashes.
 */
export function setStorageBytes(tensor: Tensor, bytes: number): void {
  native.setStorageBytes(tensor, bytes);
}

/**
 * Runs `body`, which makes what stays, such as a model and an optimiser's state. Meanwhile every block of 128 KB and more comes from the system by
 * itself, so that those that are freed leave no gaps in the heap (glibc), and at the end what is free goes back to the system.
 */
export async function withoutGaps<T>(body: () => T | Promise<T>): Promise<T> {
  native.setBlocksFromSystem(true);
  try {
    return await body();
  } finally {
    native.setBlocksFromSystem(false);
  }
}

/**
 * Whether tensors on the CPU of 16 KB and more get memory of their own from the system from now on. What freed ones had is then kept for the next
 * tensor of their size. So freed tensors leave no gaps, as they do in a heap, and memory that is used again and again need not be cleared each time.
 * @param waitingBytes how much of it is kept at most, for tensors of up to an eighth less too. Default: as much as is with that in use no more than was
 *   in use at one time
 */
export function setBlockPool(on: boolean, waitingBytes?: number): void {
  native.setBlockPool(on, waitingBytes ?? -1);
}
