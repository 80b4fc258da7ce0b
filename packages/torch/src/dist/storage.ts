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

/**
 * Gives a tensor's storage new memory of so many bytes, with undefined content, or with 0 none. Views of it, those that autograd has saved too,
 * see the new memory; nothing is noticed as a change. Whoever reads a tensor without memory crashes.
 */
export function setStorageBytes(tensor: Tensor, bytes: number): void {
  native.setStorageBytes(tensor, bytes);
}
