/** Cells of an image that a task names, as image tokens of a model, whose grid may be finer and may show a part of the image only. */
import type { ProcessedImage } from '../models/types.ts';
import { placeOf, tokenCount } from '../vision/token-views.ts';
import type { Sample } from './sample.ts';

/** Per rationale step the image tokens whose middle lies in a target cell; undefined where the task names none. */
export function pickTargetTokens(
  { pickTargets, pickGrid }: Pick<Sample, 'pickTargets' | 'pickGrid'>,
  { source, ...layout }: Pick<ProcessedImage, 'tokenGrid' | 'views' | 'source'>,
): number[][] | undefined {
  if (!pickTargets || !pickGrid) return pickTargets;
  const { left, top, width, height } = source.shown ?? { left: 0, top: 0, ...source };
  const cellOf = (token: number): number => {
    const { view, row, column } = placeOf(layout, token);
    const x = (left + ((column + 0.5) / view.grid[1]) * width) / source.width;
    const y = (top + ((row + 0.5) / view.grid[0]) * height) / source.height;
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return -1;
    return Math.floor(y * pickGrid[0]) * pickGrid[1] + Math.floor(x * pickGrid[1]);
  };
  const cells = Array.from({ length: tokenCount(layout) }, (_, token) => cellOf(token));
  return pickTargets.map((wanted) => cells.flatMap((cell, token) => (wanted.includes(cell) ? [token] : [])));
}
