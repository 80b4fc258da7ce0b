/** Cells of an image that a task names, as image tokens of a model, whose grid may be finer and may show a part of the image only. */
import type { ProcessedImage } from '../models/types.ts';
import type { Sample } from './sample.ts';

/** Per rationale step the image tokens, counted through all images, whose middle lies in a target cell; undefined where the task names none. */
export function pickTargetTokens(
  { pickTargets, pickGrid }: Pick<Sample, 'pickTargets' | 'pickGrid'>,
  images: readonly Pick<ProcessedImage, 'tokenGrid' | 'source'>[],
): number[][] | undefined {
  if (!pickTargets || !pickGrid) return pickTargets;
  const cells = images.flatMap((image, i) =>
    cellsOf(image, pickGrid).map((cell) => (cell < 0 ? -1 : cell + i * pickGrid[0] * pickGrid[1])),
  );
  return pickTargets.map((wanted) => cells.flatMap((cell, token) => (wanted.includes(cell) ? [token] : [])));
}

/** The cell of each of an image's tokens; -1 outside the image. */
function cellsOf(
  { tokenGrid: [rows, columns], source }: Pick<ProcessedImage, 'tokenGrid' | 'source'>,
  pickGrid: readonly [number, number],
): number[] {
  const { left, top, width, height } = source.shown ?? { left: 0, top: 0, ...source };
  return Array.from({ length: rows * columns }, (_, token) => {
    const x = (left + (((token % columns) + 0.5) / columns) * width) / source.width;
    const y = (top + ((Math.floor(token / columns) + 0.5) / rows) * height) / source.height;
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return -1;
    return Math.floor(y * pickGrid[0]) * pickGrid[1] + Math.floor(x * pickGrid[1]);
  });
}
