/** Cells of images that a task names, as image tokens of a model, whose grids may be finer and may show a part of an image only. */
import type { ProcessedImage } from '../models/types.ts';
import { placeOf, tokenCount } from '../vision/token-views.ts';
import type { Sample } from './sample.ts';

type Seen = Pick<ProcessedImage, 'tokenGrid' | 'views' | 'source'>;

/** Per rationale step the image tokens, counted through all images, whose middle lies in a target cell; undefined where the task names none. */
export function pickTargetTokens(
  { pickTargets, pickGrid }: Pick<Sample, 'pickTargets' | 'pickGrid'>,
  images: readonly Seen[],
): number[][] | undefined {
  if (!pickTargets || !pickGrid) return pickTargets;
  const cells = images.flatMap((image, i) =>
    cellsOf(image, pickGrid).map((cell) => (cell < 0 ? -1 : cell + i * pickGrid[0] * pickGrid[1])),
  );
  return pickTargets.map((wanted) => cells.flatMap((cell, token) => (wanted.includes(cell) ? [token] : [])));
}

/** The cell of each of an image's tokens; -1 outside the image. */
function cellsOf({ source, ...layout }: Seen, pickGrid: readonly [number, number]): number[] {
  const { left, top, width, height } = source.shown ?? { left: 0, top: 0, ...source };
  return Array.from({ length: tokenCount(layout) }, (_, token) => {
    const { view, row, column } = placeOf(layout, token);
    const x = (left + ((column + 0.5) / view.grid[1]) * width) / source.width;
    const y = (top + ((row + 0.5) / view.grid[0]) * height) / source.height;
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return -1;
    return Math.floor(y * pickGrid[0]) * pickGrid[1] + Math.floor(x * pickGrid[1]);
  });
}
