/** A line drawing of one number over steps: means as dots, quartiles as bars. */
import { createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import type { Spread } from '../eval/analyze.ts';
import { FONT, loadFonts } from './trace-font.ts';

export interface Series {
  name: string;
  points: readonly { step: number; value: Spread }[];
}

export interface StepPlot {
  title: string;
  /** What the upright axis shows. */
  label: string;
  series: readonly Series[];
  /** Fixed range of the upright axis; default: what the data need. */
  range?: readonly [number, number];
}

const SIZE = { width: 900, height: 480 };
const FRAME = { left: 84, right: 24, top: 56, bottom: 60 };
/** Told apart by colour-blind readers too (Okabe and Ito, 2008). */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7'];
/** Beyond this ratio of largest to smallest a straight scale would hide the small ones. */
const LOG_FROM = 50;

/** The drawing as the bytes of a PNG file. */
export function drawStepPlot(plot: StepPlot): Buffer {
  loadFonts();
  const canvas = createCanvas(SIZE.width, SIZE.height);
  const ctx = canvas.getContext('2d');
  ctx.fillStyle = '#ffffff';
  ctx.fillRect(0, 0, SIZE.width, SIZE.height);
  const points = plot.series.flatMap((series) => series.points);
  const last = Math.max(1, ...points.map(({ step }) => step));
  const scale = valueScale(
    points.flatMap(({ value: { mean, quartiles } }) => [mean, quartiles[0], quartiles[2]]),
    plot.range,
  );
  const x = (step: number) => FRAME.left + ((step - 0.5) / last) * (SIZE.width - FRAME.left - FRAME.right);
  const y = (value: number) =>
    SIZE.height - FRAME.bottom - scale.place(value) * (SIZE.height - FRAME.top - FRAME.bottom);
  drawAxes(ctx, plot, scale.ticks, last, x, y);
  plot.series.forEach((series, index) => {
    drawSeries(ctx, series, COLOURS[index % COLOURS.length]!, x, y);
  });
  drawLegend(ctx, plot.series);
  return canvas.toBuffer('image/png');
}

/** Where a value lies from 0 (bottom) to 1 (top), and the values that get a line. */
export function valueScale(
  values: readonly number[],
  range?: readonly [number, number],
): { place(value: number): number; ticks: number[] } {
  const finite = values.filter(Number.isFinite);
  const low = Math.min(...finite);
  const high = Math.max(...finite);
  if (!range && low > 0 && high / low > LOG_FROM) {
    const from = Math.floor(Math.log10(low));
    const to = Math.ceil(Math.log10(high));
    const stride = Math.ceil((to - from) / 8);
    const ticks = Array.from({ length: Math.floor((to - from) / stride) + 1 }, (_, i) => 10 ** (from + i * stride));
    return { place: (value) => (Math.log10(value) - from) / (to - from), ticks };
  }
  const bottom = range?.[0] ?? 0;
  const wanted = range?.[1] ?? (high > 0 ? high : 1);
  const step = niceStep((wanted - bottom) / 5);
  const count = Math.ceil((wanted - bottom) / step - 1e-9);
  const top = bottom + count * step;
  const ticks = Array.from({ length: count + 1 }, (_, i) => bottom + i * step);
  return { place: (value) => (value - bottom) / (top - bottom), ticks };
}

/** The next of 1, 2, 5, 10, 20 .. from `least` up. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least * (1 - 1e-9))!;
}

type Place = (value: number) => number;

function drawAxes(
  ctx: SKRSContext2D,
  plot: StepPlot,
  ticks: readonly number[],
  last: number,
  x: Place,
  y: Place,
): void {
  ctx.fillStyle = '#222222';
  ctx.font = `bold 18px ${FONT}`;
  ctx.fillText(plot.title, FRAME.left, 28);
  ctx.font = `13px ${FONT}`;
  ctx.lineWidth = 1;
  ctx.strokeStyle = '#dddddd';
  ctx.textAlign = 'right';
  for (const tick of ticks) {
    line(ctx, FRAME.left, y(tick), SIZE.width - FRAME.right, y(tick));
    ctx.fillText(String(Number(tick.toPrecision(6))), FRAME.left - 8, y(tick) + 4);
  }
  ctx.textAlign = 'center';
  const every = niceStep(Math.max(1, last / 20));
  for (let step = 1; step <= last; step++) {
    if (step === 1 || step % every === 0) ctx.fillText(String(step), x(step), SIZE.height - FRAME.bottom + 20);
  }
  ctx.fillText('autoregressive step', (FRAME.left + SIZE.width - FRAME.right) / 2, SIZE.height - 14);
  ctx.save();
  ctx.translate(20, (FRAME.top + SIZE.height - FRAME.bottom) / 2);
  ctx.rotate(-Math.PI / 2);
  ctx.fillText(plot.label, 0, 0);
  ctx.restore();
  ctx.textAlign = 'left';
}

function drawSeries(ctx: SKRSContext2D, { points }: Series, colour: string, x: Place, y: Place): void {
  ctx.strokeStyle = colour;
  ctx.fillStyle = colour;
  points.forEach(({ step, value: { mean, quartiles } }, at) => {
    ctx.lineWidth = 5;
    ctx.globalAlpha = 0.3;
    line(ctx, x(step), y(quartiles[0]), x(step), y(quartiles[2]));
    ctx.globalAlpha = 1;
    ctx.lineWidth = 2;
    const next = points[at + 1];
    if (next) line(ctx, x(step), y(mean), x(next.step), y(next.value.mean));
    ctx.beginPath();
    ctx.arc(x(step), y(mean), 4, 0, 2 * Math.PI);
    ctx.fill();
  });
}

function drawLegend(ctx: SKRSContext2D, series: readonly Series[]): void {
  ctx.font = `13px ${FONT}`;
  let left = FRAME.left;
  series.forEach(({ name }, index) => {
    ctx.fillStyle = COLOURS[index % COLOURS.length]!;
    ctx.fillRect(left, 38, 12, 12);
    ctx.fillStyle = '#222222';
    ctx.fillText(name, left + 18, 49);
    left += ctx.measureText(name).width + 42;
  });
}

function line(ctx: SKRSContext2D, x1: number, y1: number, x2: number, y2: number): void {
  ctx.beginPath();
  ctx.moveTo(x1, y1);
  ctx.lineTo(x2, y2);
  ctx.stroke();
}
