import { native } from '../core/native.ts';
import type { Tensor } from '../core/tensor.ts';

/** A tensor's place in a flat buffer of several. */
export interface Piece {
  /** Contiguous; null stands for zeros. */
  tensor: Tensor | null;
  /** Elements. */
  offset: number;
  numel: number;
}

/** See ProcessGroup.sumPiecesAsync. @returns the native sum's number */
export function startSumOfPieces(
  group: string,
  pieces: readonly Piece[],
  part: number,
  out: Tensor | null,
  add: boolean,
  exchange: number,
  timeout: number,
): number {
  const tensors = pieces.map(({ tensor }) => tensor);
  const offsets = pieces.map(({ offset }) => offset);
  const lengths = pieces.map(({ numel }) => numel);
  return native.startSumOfPieces(group, tensors, offsets, lengths, part, out, add, exchange, timeout);
}
