/** A table whose cells are drawn: in each the mean as a dot on a line from 0 to 1, its interval as a bar, and the single values as small dots. */
import { createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import { FONT, loadFonts } from './trace-font.ts';

export interface DotCell {
  /** All between 0 and 1. */
  mean: number;
  interval: readonly [number, number];
  values: readonly number[];
}

export interface DotTable {
  title: string;
  /** Columns of the same group have the same colour. */
  columns: readonly { title: string; group: number }[];
  /** `note` stands below the name. A cell of null is empty. */
  rows: readonly { name: string; note: string; cells: readonly (DotCell | null)[] }[];
}

const COLUMN = 138;
const ROW = 50;
const EDGE = 16;
const TOP = 84;
const BOTTOM = 34;
/** Room on both sides of a cell's axis. */
const PAD = 14;
const NAMES = { least: 120, most: 420 };
/** Told apart by colour-blind readers too (Okabe and Ito, 2008). */
const COLOURS = ['#222222', '#777777', '#0072b2', '#d55e00'];

/** The drawing as the bytes of a PNG file. */
export function drawDotTable({ title, columns, rows }: DotTable): Buffer {
  loadFonts();
  const names = nameWidth(title, rows, columns.length);
  const width = EDGE + names + columns.length * COLUMN + EDGE;
  const height = TOP + rows.length * ROW + BOTTOM;
  const canvas = createCanvas(width, height);
  const ctx = canvas.getContext('2d');
  ctx.fillStyle = '#ffffff';
  ctx.fillRect(0, 0, width, height);
  ctx.fillStyle = '#222222';
  ctx.font = `bold 16px ${FONT}`;
  ctx.fillText(title, EDGE, 28, width - 2 * EDGE);
  const left = (column: number) => EDGE + names + column * COLUMN + PAD;
  columns.forEach((column, at) => {
    drawColumn(ctx, column, left(at), rows.length);
  });
  rows.forEach((row, index) => {
    const middle = TOP + (index + 0.5) * ROW;
    ctx.textAlign = 'left';
    ctx.fillStyle = '#222222';
    ctx.font = `bold 13px ${FONT}`;
    ctx.fillText(row.name, EDGE, middle - 3, names - 12);
    ctx.font = `12px ${FONT}`;
    ctx.fillStyle = '#555555';
    ctx.fillText(row.note, EDGE, middle + 14, names - 12);
    row.cells.forEach((cell, at) => {
      if (cell) drawCell(ctx, cell, left(at), middle, COLOURS[columns[at]!.group % COLOURS.length]!);
    });
  });
  return canvas.toBuffer('image/png');
}

function nameWidth(title: string, rows: DotTable['rows'], columns: number): number {
  const ctx = createCanvas(1, 1).getContext('2d');
  ctx.font = `bold 13px ${FONT}`;
  const longest = Math.max(
    ...rows.map(({ name, note }) => Math.max(ctx.measureText(name).width, ctx.measureText(note).width)),
  );
  ctx.font = `bold 16px ${FONT}`;
  // With few columns the title needs the room.
  const forTitle = ctx.measureText(title).width - columns * COLUMN;
  return Math.min(NAMES.most, Math.max(NAMES.least, longest + 16, forTitle));
}

const AXIS = COLUMN - 2 * PAD;

function drawColumn(
  ctx: SKRSContext2D,
  { title, group }: DotTable['columns'][number],
  left: number,
  rows: number,
): void {
  ctx.textAlign = 'center';
  ctx.fillStyle = COLOURS[group % COLOURS.length]!;
  ctx.font = `bold 13px ${FONT}`;
  ctx.fillText(title, left + AXIS / 2, TOP - 22, COLUMN - 6);
  ctx.font = `11px ${FONT}`;
  ctx.fillStyle = '#777777';
  ctx.lineWidth = 1;
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    const x = left + value * AXIS;
    ctx.strokeStyle = value % 0.5 === 0 ? '#cccccc' : '#eeeeee';
    line(ctx, x, TOP - 4, x, TOP + rows * ROW + 4);
    if (value % 0.5 === 0) ctx.fillText(String(value), x, TOP + rows * ROW + 20);
  }
}

function drawCell(ctx: SKRSContext2D, cell: DotCell, left: number, middle: number, colour: string): void {
  const x = (value: number) => left + value * AXIS;
  const y = middle + 6;
  ctx.strokeStyle = colour;
  ctx.fillStyle = colour;
  ctx.globalAlpha = 0.35;
  for (const value of cell.values) dot(ctx, x(value), y + 9, 2.5);
  ctx.lineWidth = 5;
  line(ctx, x(cell.interval[0]), y, x(cell.interval[1]), y);
  ctx.globalAlpha = 1;
  dot(ctx, x(cell.mean), y, 4.5);
  ctx.font = `11px ${FONT}`;
  ctx.textAlign = 'center';
  ctx.fillText(cell.mean.toFixed(3).replace(/^0\./, '.'), x(cell.mean), y - 9);
}

function dot(ctx: SKRSContext2D, x: number, y: number, radius: number): void {
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 2 * Math.PI);
  ctx.fill();
}

function line(ctx: SKRSContext2D, x1: number, y1: number, x2: number, y2: number): void {
  ctx.beginPath();
  ctx.moveTo(x1, y1);
  ctx.lineTo(x2, y2);
  ctx.stroke();
}
