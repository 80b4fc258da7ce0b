/** One panel of the trace image: the image, or the image under a step's attention with the picked patches. */
import { type Canvas, createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import type { RgbImage } from '../vision/image.ts';
import { heatColour } from './heat-colours.ts';
import { FONT } from './trace-font.ts';

export interface PanelSize {
  width: number;
  height: number;
}

type Grid = readonly [rows: number, columns: number];

/** What a panel shows over the image, by the cells of its grid, row by row. */
export interface PanelStep {
  /** With the places in the order of all picks of the step, from 0. */
  picked: readonly { cell: number; order: number }[];
  /** Shares of the step's highest score, one a cell. */
  shares: readonly number[];
  /** Cells that earlier steps picked. */
  earlier: ReadonlySet<number>;
}

/** Below this cell size, in units, order numbers would be unreadable. */
const NUMBER_CELL = 22;
/** Opacity of the heat map over the dimmed image, and over picked patches, whose own colours must stay recognisable. */
const HEAT = 0.72;
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
  // Small images are shown with their pixels: that is what the model sees.
  context.imageSmoothingEnabled = canvas.width > panel.width / 2;
  context.imageSmoothingQuality = 'high';
  context.drawImage(canvas, 0, 0, panel.width, panel.height);
}

/** The image in grey under a heat map, crosses on the patches picked before, outlines and order on those picked now. */
export function drawStep(context: SKRSContext2D, canvas: Canvas, step: PanelStep, grid: Grid, panel: PanelSize): void {
  const { shares, picked } = step;
  drawImage(context, canvas, panel);
  context.save();
  context.globalCompositeOperation = 'saturation';
  context.fillStyle = '#808080';
  context.fillRect(0, 0, panel.width, panel.height);
  context.restore();
  context.fillStyle = 'rgba(16, 12, 28, 0.35)';
  context.fillRect(0, 0, panel.width, panel.height);
  shares.forEach((share, cell) => {
    fillCell(context, cell, share, HEAT, grid, panel);
  });
  drawEarlier(context, step, grid, panel);
  if (picked.length === 0) return;
  uncoverPicks(context, canvas, step, grid, panel);
  for (const { cell } of picked) fillCell(context, cell, shares[cell]!, TINT, grid, panel);
  outlinePicks(context, step, grid, panel);
  numberPicks(context, step, grid, panel);
}

/**
 * Scores as shares of the highest one. The square root lifts the many small ones: attention is heavy-tailed and would else
 * be one bright cell on black.
 */
export function heatShares(scores: ArrayLike<number>): number[] {
  const peak = highest(scores);
  return Array.from(scores, (score) => (peak > 0 && Number.isFinite(score) ? Math.sqrt(Math.max(score, 0) / peak) : 0));
}

/** The largest finite score, 0 if there is none. */
export function highest(scores: ArrayLike<number>): number {
  return Array.from(scores).reduce((peak, score) => (Number.isFinite(score) ? Math.max(peak, score) : peak), 0);
}

/** @param strength opacity of the highest share's colour; lower shares cover the image less. */
function fillCell(
  context: SKRSContext2D,
  cell: number,
  share: number,
  strength: number,
  grid: Grid,
  panel: PanelSize,
): void {
  const [red, green, blue] = heatColour(share);
  const { left, top, width, height } = cellOf(cell, grid, panel);
  context.fillStyle = `rgba(${red}, ${green}, ${blue}, ${strength * (0.4 + 0.6 * share)})`;
  context.fillRect(left, top, width, height);
}

/** Picked patches show the image itself in its colours. */
function uncoverPicks(context: SKRSContext2D, canvas: Canvas, step: PanelStep, grid: Grid, panel: PanelSize): void {
  context.save();
  context.beginPath();
  for (const { cell } of step.picked) {
    const { left, top, width, height } = cellOf(cell, grid, panel);
    context.rect(left, top, width, height);
  }
  context.clip();
  drawImage(context, canvas, panel);
  context.restore();
}

/** Patches an earlier step took are crossed out: they cannot be picked again. */
function drawEarlier(context: SKRSContext2D, step: PanelStep, grid: Grid, panel: PanelSize): void {
  context.strokeStyle = 'rgba(255, 255, 255, 0.55)';
  context.lineWidth = 1;
  for (const earlier of step.earlier) {
    if (step.picked.some(({ cell }) => cell === earlier)) continue;
    const { left, top, width, height } = cellOf(earlier, grid, panel);
    const inset = Math.min(width, height) * 0.3;
    context.beginPath();
    context.moveTo(left + inset, top + inset);
    context.lineTo(left + width - inset, top + height - inset);
    context.moveTo(left + width - inset, top + inset);
    context.lineTo(left + inset, top + height - inset);
    context.stroke();
  }
}

/** A strong line around each group of picked neighbours, a fine one inside it. */
function outlinePicks(context: SKRSContext2D, step: PanelStep, grid: Grid, panel: PanelSize): void {
  const picked = new Set(step.picked.map(({ cell }) => cell));
  const columns = grid[1];
  const outer: [number, number, number, number][] = [];
  const inner: [number, number, number, number][] = [];
  for (const cell of picked) {
    const { left, top, width, height } = cellOf(cell, grid, panel);
    const right = left + width;
    const bottom = top + height;
    const column = cell % columns;
    (picked.has(cell - columns) ? inner : outer).push([left, top, right, top]);
    (picked.has(cell + columns) ? inner : outer).push([left, bottom, right, bottom]);
    (column > 0 && picked.has(cell - 1) ? inner : outer).push([left, top, left, bottom]);
    (column < columns - 1 && picked.has(cell + 1) ? inner : outer).push([right, top, right, bottom]);
  }
  const small = Math.min(panel.width / columns, panel.height / grid[0]) < 12;
  strokeLines(context, inner, 'rgba(255, 255, 255, 0.55)', 0.75);
  strokeLines(context, outer, 'rgba(10, 10, 16, 0.9)', small ? 3.2 : 5);
  strokeLines(context, outer, '#ffffff', small ? 1.4 : 2.4);
}

/** The order of picking, where it fits. */
function numberPicks(context: SKRSContext2D, step: PanelStep, grid: Grid, panel: PanelSize): void {
  const size = Math.min(panel.width / grid[1], panel.height / grid[0]);
  if (size < NUMBER_CELL || (step.picked.length < 2 && step.picked[0]!.order === 0)) return;
  const fontSize = Math.min(Math.max(Math.round(size * 0.36), 9), 16);
  context.font = `bold ${fontSize}px ${FONT}`;
  context.lineWidth = 3;
  context.lineJoin = 'round';
  context.strokeStyle = 'rgba(10, 10, 16, 0.85)';
  context.fillStyle = '#ffffff';
  step.picked.forEach(({ cell, order }) => {
    const { left, top } = cellOf(cell, grid, panel);
    const at = [left + 4, top + fontSize + 2] as const;
    context.strokeText(String(order + 1), ...at);
    context.fillText(String(order + 1), ...at);
  });
}

function strokeLines(
  context: SKRSContext2D,
  lines: readonly (readonly [number, number, number, number])[],
  colour: string,
  lineWidth: number,
): void {
  context.strokeStyle = colour;
  context.lineWidth = lineWidth;
  context.lineCap = 'square';
  context.beginPath();
  for (const [fromX, fromY, toX, toY] of lines) {
    context.moveTo(fromX, fromY);
    context.lineTo(toX, toY);
  }
  context.stroke();
}

function cellOf(cell: number, [rows, columns]: Grid, panel: PanelSize) {
  const width = panel.width / columns;
  const height = panel.height / rows;
  return { left: (cell % columns) * width, top: Math.floor(cell / columns) * height, width, height };
}
