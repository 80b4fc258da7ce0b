/** Where the tokens of a prompt's images stand in it: an image's together, or in several runs between other tokens. */
import type { Tensor } from '@ivtlr/torch';
import { indexTensor } from '../models/common/index-tensor.ts';
import type { ColumnSpan, ProcessedImage } from '../models/types.ts';

/** N: the tokens of all images. */
export function tokensOf(images: readonly Pick<ProcessedImage, 'tokens'>[]): number {
  return images.reduce((sum, { tokens }) => sum + tokens, 0);
}

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

/** Of each image from its first token to its last, with what stands between its runs. */
export function imageSpans(
  columns: readonly number[],
  images: readonly Pick<ProcessedImage, 'tokens'>[],
): ColumnSpan[] {
  let at = 0;
  return images.map(({ tokens }) => {
    const own = columns.slice(at, at + tokens);
    at += tokens;
    return own.length === 0 ? [0, 0] : [own[0]!, own.at(-1)! + 1];
  });
}
