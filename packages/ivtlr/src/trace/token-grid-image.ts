/** An image with the grid of its image tokens drawn over it. */
import sharp from 'sharp';
import type { RgbImage } from '../vision/image.ts';

/** Pixels a token's side has at least. */
const MIN_CELL = 48;
const LINE = [10, 125, 140] as const;
const OUTLINE = [255, 255, 255] as const;

/**
 * @param tokenGrid rows and columns, as the model cuts the image; their cells are the image's equal parts.
 * @returns a PNG file, the image enlarged by a whole number so that cells are at least 48 pixels wide.
 */
export async function drawTokenGrid(image: RgbImage, tokenGrid: readonly [number, number]): Promise<Uint8Array> {
  const [rows, columns] = tokenGrid;
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
    for (let y = 0; y < height; y++) {
      paint(x - 1, y, OUTLINE);
      paint(x, y, LINE);
    }
  }
  for (let row = 1; row < rows; row++) {
    const y = Math.round((row * height) / rows);
    for (let x = 0; x < width; x++) {
      paint(x, y - 1, OUTLINE);
      paint(x, y, LINE);
    }
  }
  return sharp(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}
