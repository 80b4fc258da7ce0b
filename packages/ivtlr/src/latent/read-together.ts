/** Several tensors read in one go: on a GPU each read waits for everything that was given to it. */
import { cat, DelayedRead, type Tensor } from '@ivtlr/torch';

/**
 * Begins to read tensors, in one piece; `finish` gives the numbers of each, flat, and waits for nothing younger than this call. Whole numbers beyond
 * 2^53 are rounded where dtypes differ. Call inside a scope and without grad.
 */
export function readLater(tensors: readonly Tensor[]): PendingRead {
  const sizes = tensors.map(({ numel }) => numel);
  const alike = tensors.every(({ dtype }) => dtype === tensors[0]!.dtype);
  const flat = tensors.map((tensor) => (alike ? tensor : tensor.to('float64')).flatten());
  const read = flat.length === 0 ? null : new DelayedRead(flat.length === 1 ? flat[0]! : cat(flat));
  return {
    finish() {
      const all = read?.finish() ?? [];
      if (sizes.length === 1) return [all];
      let at = 0;
      return sizes.map((size) => {
        at += size;
        return all.slice(at - size, at);
      });
    },
    dispose: () => read?.dispose(),
  };
}

export interface PendingRead {
  /** Once. */
  finish(): number[][];
  dispose(): void;
}

/** The same at once. */
export function readTogether(tensors: readonly Tensor[]): number[][] {
  return readLater(tensors).finish();
}
