/** Where image tokens lie on a drawn picture. */
import type { SeenImage } from '../../../../packages/ivtlr/src/server/protocol.ts';
import type { Rect } from '../../../../packages/ivtlr/src/trace/step-panel.ts';

export interface Size {
  width: number;
  height: number;
}

/** The part of the drawing that a token covers. The grid lies over the crop, not over the whole picture. */
export function cellOf(token: number, { tokenGrid, crop, ...picture }: SeenImage, size: Size): Rect {
  const [rows, columns] = tokenGrid;
  const width = ((crop.width / picture.width) * size.width) / columns;
  const height = ((crop.height / picture.height) * size.height) / rows;
  return {
    left: (crop.x / picture.width) * size.width + (token % columns) * width,
    top: (crop.y / picture.height) * size.height + Math.floor(token / columns) * height,
    width,
    height,
  };
}

/** The token at a point of the drawing; null outside the grid. */
export function tokenAt(x: number, y: number, image: SeenImage, size: Size): number | null {
  const [rows, columns] = image.tokenGrid;
  const { left, top, width, height } = cellOf(0, image, size);
  const column = Math.floor((x - left) / width);
  const row = Math.floor((y - top) / height);
  return column >= 0 && column < columns && row >= 0 && row < rows ? row * columns + column : null;
}

/** `row 2, column 3`, from 1. */
export function cellName(token: number, [, columns]: SeenImage['tokenGrid']): string {
  return `row ${Math.floor(token / columns) + 1}, column ${(token % columns) + 1}`;
}

/** The tokens with the highest scores, best first. */
export function highest(scores: readonly number[], count: number): { token: number; score: number }[] {
  return scores
    .map((score, token) => ({ token, score }))
    .sort((a, b) => b.score - a.score || a.token - b.token)
    .slice(0, count);
}
