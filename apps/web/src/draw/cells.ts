/** Where image tokens lie on a drawn picture. */
import type { SeenImage } from '../../../../packages/ivtlr/src/server/protocol.ts';
import type { Rect } from '../../../../packages/ivtlr/src/trace/step-panel.ts';
import {
  placeOf,
  type TokenLayout,
  type TokenView,
  tokenIn,
  viewsOf,
  viewTokens,
} from '../../../../packages/ivtlr/src/vision/token-views.ts';

export interface Size {
  width: number;
  height: number;
}

/** The part of the drawing that a cell of a view covers. The grid lies over the crop, not over the whole picture. */
export function rectOf(
  row: number,
  column: number,
  { grid }: TokenView,
  { crop, ...picture }: SeenImage,
  size: Size,
): Rect {
  const [rows, columns] = grid;
  const width = ((crop.width / picture.width) * size.width) / columns;
  const height = ((crop.height / picture.height) * size.height) / rows;
  return {
    left: (crop.x / picture.width) * size.width + column * width,
    top: (crop.y / picture.height) * size.height + row * height,
    width,
    height,
  };
}

/** The token at a point of the drawing, of the first view; null outside the grid. */
export function tokenAt(x: number, y: number, image: SeenImage, size: Size): number | null {
  const view = viewsOf(image)[0]!;
  const [rows, columns] = view.grid;
  const { left, top, width, height } = rectOf(0, 0, view, image, size);
  const column = Math.floor((x - left) / width);
  const row = Math.floor((y - top) / height);
  return column >= 0 && column < columns && row >= 0 && row < rows ? tokenIn(view, row, column) : null;
}

/** `row 2, column 3`, from 1; in a picture that is seen several times with the name of the view. */
export function cellName(token: number, layout: TokenLayout): string {
  const { view, row, column } = placeOf(layout, token);
  return `${layout.views && layout.views.length > 1 ? `${view.name}: ` : ''}row ${row + 1}, column ${column + 1}`;
}

/** The same for a token of any of several pictures, with the picture's number. */
export function tokenName(token: number, images: readonly SeenImage[]): string {
  const at = images.findIndex((image) => isOf(token, image));
  if (at < 0) return `token ${token}`;
  return `${images.length > 1 ? `picture ${at + 1}, ` : ''}${cellName(token, images[at]!)}`;
}

/** Whether a token, counted through all pictures, is one of this picture's. */
export function isOf(token: number, image: SeenImage): boolean {
  return viewsOf(image).some((view) => token >= view.start && token < view.start + viewTokens(view));
}

/** The tokens with the highest scores, best first. */
export function highest(scores: readonly number[], count: number): { token: number; score: number }[] {
  return scores
    .map((score, token) => ({ token, score }))
    .sort((a, b) => b.score - a.score || a.token - b.token)
    .slice(0, count);
}
