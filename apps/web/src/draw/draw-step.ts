/** Draws a picture under the attention of one step, with the patches it picked. */

import type { SeenImage, SeenStep } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { heatColour } from '../../../../packages/ivtlr/src/trace/heat-colours.ts';
import { cellOf, heatShares, type Rect, type Size } from './cells.ts';

export interface StepDrawing {
  element: HTMLImageElement;
  image: SeenImage | null;
  /** Null: the picture alone. */
  step: Pick<SeenStep, 'picked' | 'scores' | 'kind'> | null;
  /** Tokens that steps before it picked. */
  earlier?: ReadonlySet<number>;
  /** Picks that another answer does not have; they are outlined in another colour. */
  different?: readonly number[];
  /** Whether attention covers the picture. */
  heat: boolean;
  /** The token under the pointer. */
  pointed?: number | null;
}

const HEAT = 0.72;
/** Cells smaller than this, in CSS pixels, get no number. */
const NUMBERED = 22;
export const DIFFERENT = '#ffb02e';

export function drawStep(context: CanvasRenderingContext2D, drawing: StepDrawing, size: Size): void {
  const { element, image, step, heat } = drawing;
  context.clearRect(0, 0, size.width, size.height);
  drawPicture(context, element, size);
  if (!image || !step) return;
  if (heat && step.scores) drawHeat(context, step.scores, image, size);
  const cell = (token: number) => cellOf(token, image, size);
  for (const token of drawing.earlier ?? []) if (!step.picked.includes(token)) cross(context, cell(token));
  uncover(context, element, step.picked.map(cell), size);
  // A written token inserts nothing; what it looked at most is dotted.
  const outline = step.kind === 'latent' ? strong : dotted;
  for (const token of step.picked) outline(context, cell(token), '#ffffff');
  for (const token of drawing.different ?? []) outline(context, cell(token), DIFFERENT);
  if (step.kind === 'latent' && step.picked.length > 1) number(context, step.picked.map(cell));
  if (drawing.pointed != null) strong(context, cell(drawing.pointed), '#35c3d6');
}

export function drawPicture(context: CanvasRenderingContext2D, element: HTMLImageElement, size: Size): void {
  // Small pictures are shown with their pixels: that is what the model sees.
  context.imageSmoothingEnabled = element.naturalWidth > size.width / 2;
  context.imageSmoothingQuality = 'high';
  context.drawImage(element, 0, 0, size.width, size.height);
}

function drawHeat(context: CanvasRenderingContext2D, scores: readonly number[], image: SeenImage, size: Size): void {
  context.save();
  context.globalCompositeOperation = 'saturation';
  context.fillStyle = '#808080';
  context.fillRect(0, 0, size.width, size.height);
  context.restore();
  context.fillStyle = 'rgba(16, 12, 28, 0.35)';
  context.fillRect(0, 0, size.width, size.height);
  heatShares(scores).forEach((share, token) => {
    const [red, green, blue] = heatColour(share);
    const { left, top, width, height } = cellOf(token, image, size);
    context.fillStyle = `rgba(${red}, ${green}, ${blue}, ${HEAT * (0.4 + 0.6 * share)})`;
    context.fillRect(left, top, width, height);
  });
}

/** Picked patches show the picture itself in its colours. */
function uncover(context: CanvasRenderingContext2D, element: HTMLImageElement, cells: readonly Rect[], size: Size) {
  if (cells.length === 0) return;
  context.save();
  context.beginPath();
  for (const { left, top, width, height } of cells) context.rect(left, top, width, height);
  context.clip();
  drawPicture(context, element, size);
  context.restore();
}

function strong(context: CanvasRenderingContext2D, { left, top, width, height }: Rect, colour: string): void {
  const fine = Math.min(width, height) < 14;
  const lines = [
    ['rgba(10, 10, 16, 0.9)', fine ? 3 : 5],
    [colour, fine ? 1.4 : 2.4],
  ] as const;
  for (const [style, lineWidth] of lines) {
    context.strokeStyle = style;
    context.lineWidth = lineWidth;
    context.strokeRect(left + 1, top + 1, width - 2, height - 2);
  }
}

function dotted(context: CanvasRenderingContext2D, rect: Rect, colour: string): void {
  context.save();
  context.setLineDash([4, 3]);
  context.strokeStyle = colour;
  context.lineWidth = 1.2;
  context.strokeRect(rect.left + 1, rect.top + 1, rect.width - 2, rect.height - 2);
  context.restore();
}

/** Patches that were taken before and cannot be picked again. */
function cross(context: CanvasRenderingContext2D, { left, top, width, height }: Rect): void {
  const inset = Math.min(width, height) * 0.3;
  context.strokeStyle = 'rgba(255, 255, 255, 0.55)';
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(left + inset, top + inset);
  context.lineTo(left + width - inset, top + height - inset);
  context.moveTo(left + width - inset, top + inset);
  context.lineTo(left + inset, top + height - inset);
  context.stroke();
}

/** The order of picking. */
function number(context: CanvasRenderingContext2D, cells: readonly Rect[]): void {
  if (cells.some(({ width, height }) => Math.min(width, height) < NUMBERED)) return;
  const height = Math.round(Math.min(Math.max(cells[0]!.height * 0.3, 9), 15));
  context.font = `bold ${height}px system-ui, sans-serif`;
  context.lineWidth = 3;
  context.lineJoin = 'round';
  context.strokeStyle = 'rgba(10, 10, 16, 0.85)';
  context.fillStyle = '#ffffff';
  cells.forEach(({ left, top }, order) => {
    context.strokeText(String(order + 1), left + 4, top + height + 2);
    context.fillText(String(order + 1), left + 4, top + height + 2);
  });
}
