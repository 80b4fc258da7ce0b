/** Panels of the trace image on Node's canvas. */
import { type Canvas, createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import type { RgbImage } from '../vision/image.ts';
import { drawPicture, drawStep, type Panel, type PanelStep } from './step-panel.ts';
import { FONT } from './trace-font.ts';

export interface PanelSize {
  width: number;
  height: number;
}

/** Opacity of the heat map over picked patches. */
const TINT = 0.18;

/** A canvas of the image's own size, to draw panels from. */
export function toCanvas({ width, height, data }: RgbImage): Canvas {
  const canvas = createCanvas(width, height);
  const context = canvas.getContext('2d');
  const pixels = context.createImageData(width, height);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
    pixels.data[to] = data[from]!;
    pixels.data[to + 1] = data[from + 1]!;
    pixels.data[to + 2] = data[from + 2]!;
    pixels.data[to + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** The image over the panel, which starts at the context's origin. */
export function drawImage(context: SKRSContext2D, canvas: Canvas, panel: PanelSize): void {
  drawPicture({ context, picture: canvas, pictureWidth: canvas.width, ...panel });
}

/** The image under the attention of a latent step. The token grid lies over the whole of it. */
export function drawLatentStep(
  context: SKRSContext2D,
  canvas: Canvas,
  step: Omit<PanelStep, 'kind' | 'tint'>,
  [rows, columns]: readonly [rows: number, columns: number],
  { width, height }: PanelSize,
): void {
  const cell = { width: width / columns, height: height / rows };
  const panel: Panel<Canvas> = {
    ...{ context, picture: canvas, pictureWidth: canvas.width, width, height, columns, fontFamily: FONT },
    cellOf: (token) => ({
      left: (token % columns) * cell.width,
      top: Math.floor(token / columns) * cell.height,
      ...cell,
    }),
  };
  drawStep(panel, { ...step, kind: 'latent', tint: TINT });
}
