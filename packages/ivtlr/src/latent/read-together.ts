/** Several tensors read in one go: on a GPU each read waits for everything that was given to it. */
import { cat, DelayedRead, type Tensor } from '@ivtlr/torch';

/** Reads tensors in one piece: the numbers of each, flat. Whole numbers beyond 2^53 are rounded where dtypes differ. Call inside a scope and without grad. */
export function readTogether(tensors: readonly Tensor[]): number[][] {
  const [first] = tensors;
  if (tensors.length < 2) return first ? [first.toNumbers()] : [];
  return splitter(tensors)(joined(tensors).toNumbers());
}

export interface PendingRead {
  /** Once. */
  finish(): number[][];
  dispose(): void;
}

/** Begins to do the same; `finish` waits for nothing younger than this call. */
export function readLater(tensors: readonly Tensor[]): PendingRead {
  const read = new DelayedRead(joined(tensors));
  const split = splitter(tensors);
  return { finish: () => split(read.finish()), dispose: () => read.dispose() };
}

function joined(tensors: readonly Tensor[]): Tensor {
  const [first] = tensors as [Tensor];
  if (tensors.length === 1) return first.flatten();
  const { dtype } = first;
  const alike = tensors.every((tensor) => tensor.dtype === dtype);
  return cat(tensors.map((tensor) => (alike ? tensor : tensor.to('float64')).flatten()));
}

function splitter(tensors: readonly Tensor[]): (all: number[]) => number[][] {
  if (tensors.length === 1) return (all) => [all];
  const sizes = tensors.map(({ numel }) => numel);
  return (all) => {
    let at = 0;
    return sizes.map((size) => {
      at += size;
      return all.slice(at - size, at);
    });
  };
}
