/** Images with the grids of their image tokens drawn over them. */
import sharp from 'sharp';
import type { RgbImage } from '../vision/image.ts';
import { type TokenLayout, type TokenView, viewsOf } from '../vision/token-views.ts';

/** Pixels a token's side has at least. */
const MIN_CELL = 48;
/** Pixels between two views. */
const GAP = 24;
const LINE = [10, 125, 140] as const;
const OUTLINE = [255, 255, 255] as const;
/** Between tiles. */
const BORDER = [230, 90, 20] as const;

/** An image as each view of it shows it, in the order of the views of its layout; a view's cells are its image's equal parts. */
export interface ViewedImage {
  images: readonly RgbImage[];
  layout: TokenLayout;
}

/** @returns a PNG file, all views below each other, each enlarged by a whole number so that cells are at least 48 pixels wide. */
export async function drawTokenGrids(viewed: readonly ViewedImage[]): Promise<Uint8Array> {
  const drawn = await Promise.all(
    viewed.flatMap(({ images, layout }) => {
      const views = viewsOf(layout);
      return images.map((image, index) => drawGrid(image, views[index]!));
    }),
  );
  const width = Math.max(...drawn.map((part) => part.width));
  const height = drawn.reduce((sum, part) => sum + part.height + GAP, -GAP);
  const page = new Uint8Array(width * height * 3).fill(255);
  let top = 0;
  for (const part of drawn) {
    const stride = part.width * 3;
    for (let row = 0; row < part.height; row++)
      page.set(part.data.subarray(row * stride, (row + 1) * stride), (top + row) * width * 3);
    top += part.height + GAP;
  }
  return sharp(page, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

async function drawGrid(image: RgbImage, { grid: [rows, columns], tile: [tileRows, tileColumns] }: TokenView) {
  const scale = Math.max(1, Math.ceil(MIN_CELL / Math.min(image.width / columns, image.height / rows)));
  const width = image.width * scale;
  const height = image.height * scale;
  const data = await sharp(image.data, { raw: { width: image.width, height: image.height, channels: 3 } })
    .resize(width, height, { kernel: 'nearest' })
    .raw()
    .toBuffer();
  const paint = (x: number, y: number, colour: readonly number[]) => {
    if (x >= 0 && y >= 0 && x < width && y < height) data.set(colour, (y * width + x) * 3);
  };
  // A dark line with a light one beside it is seen on any image.
  for (let column = 1; column < columns; column++) {
    const x = Math.round((column * width) / columns);
    const colour = column % tileColumns === 0 ? BORDER : LINE;
    for (let y = 0; y < height; y++) {
      paint(x - 1, y, OUTLINE);
      paint(x, y, colour);
    }
  }
  for (let row = 1; row < rows; row++) {
    const y = Math.round((row * height) / rows);
    const colour = row % tileRows === 0 ? BORDER : LINE;
    for (let x = 0; x < width; x++) {
      paint(x, y - 1, OUTLINE);
      paint(x, y, colour);
    }
  }
  return { data, width, height };
}
