/** How the tokens of an image lie over the part of it that a model sees: in one grid, or in several where the model sees it more than once. */

/** One grid over the whole of the part that is seen. */
export interface TokenView {
  /** What sets it apart, such as `tiles`. */
  name: string;
  grid: readonly [rows: number, columns: number];
  /** Index of its first token among the image's. */
  start: number;
  /** Rows and columns of a tile: tokens go tile by tile, and row by row in each. The whole grid where it is not cut into tiles. */
  tile: readonly [rows: number, columns: number];
}

/** An image's tokens; without `views` they lie in one grid, row by row. */
export interface TokenLayout {
  tokenGrid: readonly [rows: number, columns: number];
  views?: readonly TokenView[] | undefined;
}

export interface TokenPlace {
  view: TokenView;
  row: number;
  column: number;
}

export function viewsOf({ tokenGrid, views }: TokenLayout): readonly TokenView[] {
  return views ?? [{ name: 'image', grid: tokenGrid, start: 0, tile: tokenGrid }];
}

/** Tokens of a view. */
export function viewTokens({ grid: [rows, columns] }: TokenView): number {
  return rows * columns;
}

/** Tokens of all views. */
export function tokenCount(layout: TokenLayout): number {
  return viewsOf(layout).reduce((sum, view) => sum + viewTokens(view), 0);
}

/** Row and column in its view of the view's token `index`, counted from the view's first. */
export function cellIn({ grid: [, columns], tile: [tileRows, tileColumns] }: TokenView, index: number) {
  const tile = Math.floor(index / (tileRows * tileColumns));
  const inside = index % (tileRows * tileColumns);
  const across = columns / tileColumns;
  return {
    row: Math.floor(tile / across) * tileRows + Math.floor(inside / tileColumns),
    column: (tile % across) * tileColumns + (inside % tileColumns),
  };
}

/** The token of the image in a cell of a view. */
export function tokenIn(
  { grid: [, columns], start, tile: [tileRows, tileColumns] }: TokenView,
  row: number,
  column: number,
) {
  const tile = Math.floor(row / tileRows) * (columns / tileColumns) + Math.floor(column / tileColumns);
  return start + tile * tileRows * tileColumns + (row % tileRows) * tileColumns + (column % tileColumns);
}

/** Where a token of the image lies. @throws RangeError for one that the image has not */
export function placeOf(layout: TokenLayout, token: number): TokenPlace {
  const view = viewsOf(layout).find((view) => token >= view.start && token < view.start + viewTokens(view));
  if (!view) throw new RangeError(`the image has no token ${token}`);
  return { view, ...cellIn(view, token - view.start) };
}

/** Of several images' tokens, counted through, whose a token is, and which of its own. @throws RangeError for one that none has */
export function imageOf(images: readonly TokenLayout[], token: number): { image: number; token: number } {
  let left = token;
  for (const [image, layout] of images.entries()) {
    const count = tokenCount(layout);
    if (left >= 0 && left < count) return { image, token: left };
    left -= count;
  }
  throw new RangeError(`the images have no token ${token}`);
}
