/** Where the tokens of an image stand in a prompt: together, or in several runs between other tokens. */
import type { Tensor } from '@ivtlr/torch';
import { indexTensor } from '../models/common/index-tensor.ts';

/** Columns of the image tokens among token ids, in order: column i of the list is that of image token i. */
export function imageColumns(ids: readonly number[], imageTokenId: number): number[] {
  return ids.flatMap((id, column) => (id === imageTokenId ? [column] : []));
}

/** Whether nothing stands between the columns. */
export function areTogether(columns: readonly number[]): boolean {
  return columns.length === 0 || columns.at(-1)! - columns[0]! === columns.length - 1;
}

/** (T, ..) -> (N, ..): what stands at the columns; a view where they are together. */
export function atColumns(values_T: Tensor, columns: readonly number[]): Tensor {
  if (areTogether(columns)) return values_T.narrow(0, columns[0] ?? 0, columns.length);
  return values_T.indexSelect(0, indexTensor(columns, values_T.device));
}

/** First and one-past-last column of the image, with what stands between its runs. */
export function imageSpan(columns: readonly number[]): [number, number] {
  return columns.length === 0 ? [0, 0] : [columns[0]!, columns.at(-1)! + 1];
}
