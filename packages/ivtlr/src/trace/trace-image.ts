/** Draws what a latent answer looked at: the image, then one panel per latent step. */
import { type Canvas, createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import type { RgbImage } from '../vision/image.ts';
import { type TokenLayout, type TokenView, tokenCount, viewsOf, viewTokens } from '../vision/token-views.ts';
import { heatColour } from './heat-colours.ts';
import { highestScore, stepInView } from './step-panel.ts';
import { FONT, loadFonts } from './trace-font.ts';
import { drawImage, drawLatentStep, type PanelSize, toCanvas } from './trace-panel.ts';
import { wrapText } from './wrap-text.ts';

export interface TraceImageStep {
  /** Indices of the picked image tokens, those of a second image behind those of the first. */
  picked: readonly number[];
  /** Attention score of every image token, N in all. Values that are not finite count as 0. */
  scores: ArrayLike<number>;
  /** Attention on picked patches over attention on text, if known. */
  attentionRatio?: number | null | undefined;
  /** 1 / (entropy + eps) of the attention over image tokens, if known. */
  focus?: number | null | undefined;
}

/** One of the images, which has a strip of panels for each view of it. */
export interface TracedImage extends TokenLayout {
  image: RgbImage;
  /** Size of the image that `image` was cut out of. */
  cutFrom?: { width: number; height: number } | undefined;
}

export interface TraceImage {
  images: readonly TracedImage[];
  /** Their tokens are counted through all images. */
  steps: readonly TraceImageStep[];
  question: string;
  answer: string;
}

const INK = '#1f2328';
const FAINT = '#656d76';
const PAPER = '#ffffff';
const ACCENT = '#0a7d8c';
/** Drawing is in these units; the PNG has twice as many pixels, so that text stays sharp when zoomed. */
const SCALE = 2;
const MARGIN = 24;
const GAP = 20;
const TITLE_HEIGHT = 26;
const CAPTION_LINE = 18;
const CAPTION_HEIGHT = 2 * CAPTION_LINE + 18;
const MAX_ROW_WIDTH = 1600;
const TEXT_LINE = 22;
const MAX_TEXT_LINES = 40;
const LABEL_WIDTH = 92;
const LEGEND_HEIGHT = 34;
/** Of the panels of one image. */
interface Strip {
  panel: PanelSize;
  columns: number;
  /** Of a view. */
  rows: number;
  /** Of all its views. */
  height: number;
}

interface Layout {
  strips: Strip[];
  width: number;
  stripHeight: number;
}

/** @returns a PNG file. */
export function drawTrace(trace: TraceImage): Uint8Array {
  checkTrace(trace);
  loadFonts();
  const layout = planLayout(trace);
  const measure = createCanvas(1, 1).getContext('2d');
  measure.font = `14px ${FONT}`;
  const textWidth = layout.width - 2 * MARGIN - LABEL_WIDTH;
  const paragraphs = [
    { label: 'Question', lines: wrapText(measure, trace.question.trim(), textWidth, MAX_TEXT_LINES) },
    { label: 'Answer', lines: wrapText(measure, trace.answer.trim(), textWidth, MAX_TEXT_LINES) },
  ].filter(({ lines }) => lines.length > 0);
  const textHeight = paragraphs.reduce((sum, { lines }) => sum + lines.length * TEXT_LINE + 8, 0);
  const legend = trace.steps.length > 0 && trace.images.length > 0 ? LEGEND_HEIGHT : 0;

  const canvas = createCanvas(layout.width * SCALE, (layout.stripHeight + legend + textHeight + MARGIN) * SCALE);
  const context = canvas.getContext('2d');
  context.scale(SCALE, SCALE);
  context.fillStyle = PAPER;
  context.fillRect(0, 0, layout.width, canvas.height);
  drawPanels(context, trace, layout);
  if (legend) drawLegend(context, layout);
  drawParagraphs(context, paragraphs, layout.stripHeight + legend);
  return canvas.toBuffer('image/png');
}

function checkTrace({ images, steps }: TraceImage): void {
  if (images.some(({ image }) => image.data.length !== image.width * image.height * 3))
    throw new RangeError('drawTrace: the image is not RGB');
  const tokens = images.reduce((sum, layout) => sum + tokenCount(layout), 0);
  for (const [index, { picked, scores }] of steps.entries()) {
    const wrong = picked.find((token) => !(token >= 0 && token < tokens));
    if (wrong !== undefined || scores.length !== tokens) {
      const grids = images.flatMap((layout) => viewsOf(layout).map(({ grid }) => grid.join('x')));
      throw new RangeError(
        `drawTrace: step ${index + 1} has ${scores.length} scores and picks token ${wrong ?? '-'}, the grid is ${grids.join(' and ')}`,
      );
    }
  }
}

/**
 * Panels have about the same area whatever the image's shape; rows break before they get wider than a screen. An image that is seen several times
 * has a strip for each view.
 */
function planLayout({ images, steps }: TraceImage): Layout {
  const strips = images.map((traced) => planStrip(traced, steps.length + 1));
  const widest = Math.max(0, ...strips.map(({ columns, panel }) => columns * (panel.width + GAP) - GAP));
  return {
    strips,
    width: Math.max(2 * MARGIN + widest, 560),
    stripHeight: MARGIN + strips.reduce((sum, { height }) => sum + height, 0),
  };
}

function planStrip({ image, ...layout }: TracedImage, panels: number): Strip {
  const aspect = Math.min(Math.max(image.width / image.height, 0.4), 4);
  const width = Math.round(Math.min(Math.max(320 * Math.sqrt(aspect), 240), 640));
  const height = Math.round((width * image.height) / image.width);
  const panel = { width, height: Math.min(Math.max(height, 60), 800) };
  const fit = Math.max(1, Math.floor((MAX_ROW_WIDTH - 2 * MARGIN + GAP) / (width + GAP)));
  const rows = Math.ceil(panels / fit);
  const columns = Math.ceil(panels / rows);
  return { panel, columns, rows, height: viewsOf(layout).length * rows * panelHeight(panel) };
}

/** With what stands over and under it. */
const panelHeight = (panel: PanelSize) => TITLE_HEIGHT + panel.height + CAPTION_HEIGHT;

function drawPanels(context: SKRSContext2D, trace: TraceImage, { strips }: Layout): void {
  let top = 0;
  let firstToken = 0;
  trace.images.forEach((traced, i) => {
    const count = tokenCount(traced);
    const end = firstToken + count;
    const steps = trace.steps.map((step) => ({
      ...step,
      picked: step.picked.filter((token) => token >= firstToken && token < end).map((token) => token - firstToken),
      scores: Array.from(step.scores).slice(firstToken, end),
    }));
    firstToken = end;
    const canvas = toCanvas(traced.image);
    const number = trace.images.length > 1 ? `${i + 1}` : '';
    viewsOf(traced).forEach((view, index) => {
      context.save();
      context.translate(0, top + index * strips[i]!.rows * panelHeight(strips[i]!.panel));
      drawView(context, canvas, { ...traced, steps, number }, view, strips[i]!);
      context.restore();
    });
    top += strips[i]!.height;
  });
}

/** The image and the steps as one view of it shows them. */
function drawView(
  context: SKRSContext2D,
  canvas: Canvas,
  trace: TracedImage & { steps: readonly TraceImageStep[]; number: string },
  view: TokenView,
  { panel, columns }: Strip,
): void {
  const { image, cutFrom, steps, number } = trace;
  const whole = cutFrom ? ` of ${cutFrom.width}x${cutFrom.height}` : '';
  const name = trace.views && trace.views.length > 1 ? ` · ${view.name}` : '';
  for (let index = 0; index <= steps.length; index++) {
    context.save();
    context.translate(
      MARGIN + (index % columns) * (panel.width + GAP),
      MARGIN + Math.floor(index / columns) * (TITLE_HEIGHT + panel.height + CAPTION_HEIGHT),
    );
    const step = steps[index - 1];
    drawText(
      context,
      `${step ? `Latent step ${index}${number && ` · image ${number}`}` : `Image ${number}`.trim()}${name}`,
      0,
      15,
      { font: `bold 15px ${FONT}`, maxWidth: panel.width },
    );
    const captions = step
      ? describeStep(step, view)
      : [`${image.width}x${image.height}${whole} pixels`, `${view.grid[0]}x${view.grid[1]} image tokens`];
    context.save();
    context.translate(0, TITLE_HEIGHT);
    if (step) {
      const earlier = new Set(steps.slice(0, index - 1).flatMap(({ picked }) => picked));
      drawLatentStep(context, canvas, stepInView({ ...step, earlier }, view), view.grid, panel);
    } else drawImage(context, canvas, panel);
    context.restore();
    captions.forEach((line, row) => {
      const top = TITLE_HEIGHT + panel.height + 18 + row * CAPTION_LINE;
      drawText(context, line, 0, top, { font: `13px ${FONT}`, colour: row === 0 ? INK : FAINT, maxWidth: panel.width });
    });
    context.restore();
  }
}

function describeStep(step: TraceImageStep, view: TokenView): string[] {
  const measures: string[] = [];
  if (isNumber(step.attentionRatio)) measures.push(`ratio ${formatNumber(step.attentionRatio)}`);
  if (isNumber(step.focus)) measures.push(`focus ${formatNumber(step.focus)}`);
  const end = view.start + viewTokens(view);
  const picked = step.picked.filter((token) => token >= view.start && token < end);
  const count = `${picked.length} of ${viewTokens(view)} patches`;
  const peak = `highest score ${formatNumber(highestScore(Array.from(step.scores).slice(view.start, end)))}`;
  return measures.length > 0 ? [measures.join(' · '), `${count} · ${peak}`] : [count, peak];
}

function drawLegend(context: SKRSContext2D, layout: Layout): void {
  const top = layout.stripHeight;
  const barWidth = 160;
  for (let x = 0; x < barWidth; x++) {
    const [red, green, blue] = heatColour(x / (barWidth - 1));
    context.fillStyle = `rgb(${red}, ${green}, ${blue})`;
    context.fillRect(MARGIN + x, top, 1.5, 10);
  }
  const text =
    'attention, from 0 to the highest score (root scale)  ·  outlined: picked now  ·  crossed: picked before';
  const left = MARGIN + barWidth + 12;
  const maxWidth = layout.width - MARGIN - left;
  drawText(context, text, left, top + 9, { font: `12px ${FONT}`, colour: FAINT, maxWidth });
}

function drawParagraphs(
  context: SKRSContext2D,
  paragraphs: readonly { label: string; lines: readonly string[] }[],
  top: number,
): void {
  let baseline = top + 14;
  for (const { label, lines } of paragraphs) {
    drawText(context, label, MARGIN, baseline, { font: `bold 14px ${FONT}`, colour: ACCENT });
    for (const line of lines) {
      drawText(context, line, MARGIN + LABEL_WIDTH, baseline, { font: `14px ${FONT}` });
      baseline += TEXT_LINE;
    }
    baseline += 8;
  }
}

function drawText(
  context: SKRSContext2D,
  text: string,
  left: number,
  baseline: number,
  style: { font: string; colour?: string; maxWidth?: number },
): void {
  context.font = style.font;
  context.fillStyle = style.colour ?? INK;
  if (style.maxWidth === undefined) context.fillText(text, left, baseline);
  else context.fillText(text, left, baseline, style.maxWidth);
}

function isNumber(value: number | null | undefined): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

/** Three significant digits, without an exponent for the usual sizes. */
function formatNumber(value: number): string {
  return value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}
