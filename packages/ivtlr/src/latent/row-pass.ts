/** What the rows of a batch run in one pass. Shapes: R positions of a pass, A position axes. */
import { cat, type Tensor } from '@ivtlr/torch';
import { indexTensor } from '../models/common/index-tensor.ts';
import type { RowGroup } from '../models/types.ts';
import { imageSpans } from './image-columns.ts';
import type { Row } from './row.ts';

/** A row's part of one pass. */
export interface Piece {
  row: Row;
  size: number;
  /** Nothing of the row is left to run after this pass. */
  last: boolean;
}

/**
 * Rows with equally many positions to run, and scores to give or not, stand together. Prompts come first.
 * @param pieceTokens prompt tokens of a pass
 */
export function planPass(rows: readonly Row[], pieceTokens = Number.POSITIVE_INFINITY): Piece[][] {
  const groups = new Map<string, Piece[]>();
  let left = pieceTokens;
  const waiting = rows.filter((row) => row.pending !== null);
  waiting.sort((a, b) => Number(b.phase === 'prefill') - Number(a.phase === 'prefill') || a.slot - b.slot);
  for (const row of waiting) {
    const have = row.pending!.shape[0]!;
    const size = row.phase === 'prefill' ? Math.min(have, left) : have;
    if (size === 0) continue; // this prompt's turn comes in a later pass
    if (row.phase === 'prefill') left -= size;
    const last = size === have;
    const key = `${row.phase === 'prefill'} ${size} ${last && row.wantsScores}`;
    const group = groups.get(key);
    if (group) group.push({ row, size, last });
    else groups.set(key, [{ row, size, last }]);
  }
  return [...groups.values()];
}

export function describeGroup(group: readonly Piece[]): RowGroup {
  const [{ row, size, last }] = group as [Piece, ...Piece[]];
  const hidden = group.map(({ row }) => {
    const rows = row.hiddenFromImage(size);
    return rows && { rows, columns: imageSpans(row.imageColumns, row.request.images) };
  });
  return {
    slots: group.map(({ row }) => row.slot),
    size,
    prompt: row.phase === 'prefill',
    scores: last && row.wantsScores,
    hidden: hidden.some(Boolean) ? hidden : null,
  };
}

/**
 * What a pass needs of whole numbers, sent to the device at once.
 * @returns positions (A, 1, R) int64; writing (n) int64: where the last position of each row stands that writes a token, null when those are all
 *   positions in order
 */
export function passIndices(pieces: readonly Piece[], device: string): { positions: Tensor; writing: Tensor | null } {
  const prompts: Tensor[] = [];
  const following: number[] = [];
  const writing: number[] = [];
  let R = 0;
  for (const { row, size, last } of pieces) {
    if (row.promptPositions) prompts.push(row.promptPositions.narrow(1, 0, size));
    else for (let i = 0; i < size; i++) following.push(row.next + i);
    R += size;
    if (last && row.latentStepsLeft === 0) writing.push(R - 1);
  }
  const all = writing.length === R;
  const numbers = all ? following : [...following, ...writing];
  const sent = numbers.length > 0 ? indexTensor(numbers, device) : null;
  const part = (start: number, length: number) => (length === numbers.length ? sent! : sent!.narrow(0, start, length));
  // Prompts come first in a pass, so all others stand behind them.
  const parts = following.length > 0 ? [...prompts, part(0, following.length).unsqueeze(0)] : prompts;
  const axes = Math.max(...parts.map(({ shape }) => shape[0]!));
  const alike = parts.map((part) => part.expand([axes, part.shape[1]!]));
  return {
    positions: (alike.length === 1 ? alike[0]! : cat(alike, 1)).unsqueeze(1),
    writing: all || writing.length === 0 ? null : part(following.length, writing.length),
  };
}
