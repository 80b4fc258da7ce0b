/** Cells of an image that a task names, as image tokens of a model, whose grid may be finer and may show a part of the image only. */
import type { ProcessedImage } from '../models/types.ts';
import type { Sample } from './sample.ts';

/** Per rationale step the image tokens whose middle lies in a target cell; undefined where the task names none. */
export function pickTargetTokens(
  { pickTargets, pickGrid }: Pick<Sample, 'pickTargets' | 'pickGrid'>,
  { tokenGrid: [rows, columns], source }: Pick<ProcessedImage, 'tokenGrid' | 'source'>,
): number[][] | undefined {
  if (!pickTargets || !pickGrid) return pickTargets;
  const { left, top, width, height } = source.shown ?? { left: 0, top: 0, ...source };
  const cellOf = (token: number): number => {
    const x = (left + (((token % columns) + 0.5) / columns) * width) / source.width;
    const y = (top + ((Math.floor(token / columns) + 0.5) / rows) * height) / source.height;
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return -1;
    return Math.floor(y * pickGrid[0]) * pickGrid[1] + Math.floor(x * pickGrid[1]);
  };
  const cells = Array.from({ length: rows * columns }, (_, token) => cellOf(token));
  return pickTargets.map((wanted) => cells.flatMap((cell, token) => (wanted.includes(cell) ? [token] : [])));
}
