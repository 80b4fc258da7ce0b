/** Draws a picture under the attention of one step, on the canvas of a browser as on that of Node. */
import { cellIn, type TokenView, viewTokens } from '../vision/token-views.ts';
import { heatColour } from './heat-colours.ts';

export interface Rect {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** What is used of a canvas's 2D context; `Picture` is what its drawImage takes. */
export interface PanelContext<Picture> {
  save(): void;
  restore(): void;
  beginPath(): void;
  clip(): void;
  stroke(): void;
  moveTo(x: number, y: number): void;
  lineTo(x: number, y: number): void;
  rect(left: number, top: number, width: number, height: number): void;
  fillRect(left: number, top: number, width: number, height: number): void;
  fillText(text: string, left: number, baseline: number): void;
  strokeText(text: string, left: number, baseline: number): void;
  setLineDash(lengths: number[]): void;
  drawImage(picture: Picture, left: number, top: number, width: number, height: number): void;
  fillStyle: unknown;
  strokeStyle: unknown;
  globalCompositeOperation: unknown;
  imageSmoothingEnabled: boolean;
  imageSmoothingQuality: unknown;
  lineWidth: number;
  lineCap: unknown;
  lineJoin: unknown;
  font: string;
}

/** Where a picture is drawn: from the context's origin, in its units. */
export interface Panel<Picture> {
  context: PanelContext<Picture>;
  picture: Picture;
  /** Pixels of the picture. */
  pictureWidth: number;
  width: number;
  height: number;
  /** The cell of an image token. */
  cellOf: (token: number) => Rect;
  /** Columns of the token grid. */
  columns: number;
  /** Of numbers. */
  fontFamily: string;
}

/** What a panel shows over the picture. */
export interface PanelStep {
  /** A written token inserts nothing: what it looked at is dotted. */
  kind: 'latent' | 'token';
  /** In the order of picking. */
  picked: readonly number[];
  /** What is written on each pick, from 0; default: its place in the list. */
  orders?: readonly number[];
  /** Of every image token; null draws no heat. */
  scores: ArrayLike<number> | null;
  /** The score that has the brightest colour; default: the highest of `scores`. */
  peak?: number;
  /** Tokens that earlier steps picked. */
  earlier: ReadonlySet<number>;
  /** Opacity of the heat over picked patches, whose own colours must stay recognisable. */
  tint: number;
}

/** Opacity of the heat map over the dimmed picture. */
const HEAT = 0.72;
/** In smaller cells, in units, order numbers would be unreadable. */
const NUMBERED = 22;

export function drawPicture<Picture>(panel: Omit<Panel<Picture>, 'cellOf' | 'columns' | 'fontFamily'>): void {
  const { context, picture, pictureWidth, width, height } = panel;
  // Small pictures are shown with their pixels: that is what the model sees.
  context.imageSmoothingEnabled = pictureWidth > width / 2;
  context.imageSmoothingQuality = 'high';
  context.drawImage(picture, 0, 0, width, height);
}

/** The picture in grey under a heat map, crosses on the patches picked before, outlines and order on those picked now. */
export function drawStep<Picture>(panel: Panel<Picture>, step: PanelStep): void {
  const { kind, picked, orders = picked.map((_, order) => order), scores, peak, earlier, tint } = step;
  drawPicture(panel);
  const shares = scores && heatShares(scores, peak);
  if (shares) drawHeat(panel, shares);
  for (const token of earlier) if (!picked.includes(token)) cross(panel, panel.cellOf(token));
  uncover(panel, picked);
  if (shares && tint > 0) for (const token of picked) fillCell(panel, token, shares[token]!, tint);
  if (kind === 'latent') outline(panel, picked, '#ffffff');
  else for (const token of picked) dotted(panel, panel.cellOf(token));
  if (kind === 'latent' && orders.some((order) => order > 0)) number(panel, picked, orders);
}

/**
 * Scores as shares of the highest one. The square root lifts the many small ones: attention is heavy-tailed and would else
 * be one bright cell on black.
 */
export function heatShares(scores: ArrayLike<number>, peak = highestScore(scores)): number[] {
  return Array.from(scores, (score) => (peak > 0 && Number.isFinite(score) ? Math.sqrt(Math.max(score, 0) / peak) : 0));
}

/**
 * A step's image tokens as cells of one of the grids they lie in, row by row; picks keep their places among all picks, and scores their share of
 * the highest one of all.
 */
export function stepInView<Scores extends ArrayLike<number> | null>(
  { picked, scores, earlier }: { picked: readonly number[]; scores: Scores; earlier: ReadonlySet<number> },
  view: TokenView,
) {
  const tokens = viewTokens(view);
  const inside = (token: number) => token >= view.start && token < view.start + tokens;
  const cell = (token: number) => {
    const { row, column } = cellIn(view, token - view.start);
    return row * view.grid[1] + column;
  };
  const own = picked.flatMap((token, order) => (inside(token) ? [{ cell: cell(token), order }] : []));
  const byCell = scores && new Array<number>(tokens).fill(0);
  for (let i = 0; byCell && i < tokens; i++) byCell[cell(view.start + i)] = scores[view.start + i]!;
  return {
    picked: own.map((pick) => pick.cell),
    orders: own.map((pick) => pick.order),
    scores: byCell,
    earlier: new Set([...earlier].filter(inside).map(cell)),
    ...(scores && { peak: highestScore(scores) }),
  };
}

/** The largest finite score, 0 if there is none. */
export function highestScore(scores: ArrayLike<number>): number {
  return Array.from(scores).reduce((peak, score) => (Number.isFinite(score) ? Math.max(peak, score) : peak), 0);
}

function drawHeat<Picture>(panel: Panel<Picture>, shares: readonly number[]): void {
  const { context, width, height } = panel;
  context.save();
  context.globalCompositeOperation = 'saturation';
  context.fillStyle = '#808080';
  context.fillRect(0, 0, width, height);
  context.restore();
  context.fillStyle = 'rgba(16, 12, 28, 0.35)';
  context.fillRect(0, 0, width, height);
  shares.forEach((share, token) => {
    fillCell(panel, token, share, HEAT);
  });
}

/** @param strength opacity of the highest share's colour; lower shares cover the picture less */
function fillCell<Picture>({ context, cellOf }: Panel<Picture>, token: number, share: number, strength: number): void {
  const [red, green, blue] = heatColour(share);
  const { left, top, width, height } = cellOf(token);
  context.fillStyle = `rgba(${red}, ${green}, ${blue}, ${strength * (0.4 + 0.6 * share)})`;
  context.fillRect(left, top, width, height);
}

/** Picked patches show the picture itself in its colours. */
function uncover<Picture>(panel: Panel<Picture>, picked: readonly number[]): void {
  if (picked.length === 0) return;
  const { context } = panel;
  context.save();
  context.beginPath();
  for (const { left, top, width, height } of picked.map(panel.cellOf)) context.rect(left, top, width, height);
  context.clip();
  drawPicture(panel);
  context.restore();
}

/** Patches an earlier step took are crossed out: they cannot be picked again. */
function cross<Picture>({ context }: Panel<Picture>, { left, top, width, height }: Rect): void {
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

type Line = readonly [fromX: number, fromY: number, toX: number, toY: number];

/** A strong line around each group of neighbours among the tokens, a fine one inside it. */
export function outline<Picture>(panel: Panel<Picture>, tokens: readonly number[], colour: string): void {
  const { cellOf, columns, context } = panel;
  if (tokens.length === 0) return;
  const among = new Set(tokens);
  const outer: Line[] = [];
  const inner: Line[] = [];
  for (const token of among) {
    const { left, top, width, height } = cellOf(token);
    const right = left + width;
    const bottom = top + height;
    const column = token % columns;
    (among.has(token - columns) ? inner : outer).push([left, top, right, top]);
    (among.has(token + columns) ? inner : outer).push([left, bottom, right, bottom]);
    (column > 0 && among.has(token - 1) ? inner : outer).push([left, top, left, bottom]);
    (column < columns - 1 && among.has(token + 1) ? inner : outer).push([right, top, right, bottom]);
  }
  const cell = cellOf(tokens[0]!);
  // Lines are finer in small cells, so that something of the patch is left.
  const scale = Math.min(1, Math.max(0.5, Math.min(cell.width, cell.height) / 28));
  context.lineCap = 'square';
  strokeLines(panel, inner, 'rgba(255, 255, 255, 0.55)', 0.75);
  strokeLines(panel, outer, 'rgba(10, 10, 16, 0.9)', 5 * scale);
  strokeLines(panel, outer, colour, 2.4 * scale);
}

function strokeLines<Picture>(panel: Panel<Picture>, lines: readonly Line[], colour: string, lineWidth: number): void {
  const { context } = panel;
  // At the border of the panel half of a line would be cut off.
  const x = (at: number) => Math.min(Math.max(at, 1), panel.width - 1);
  const y = (at: number) => Math.min(Math.max(at, 1), panel.height - 1);
  context.strokeStyle = colour;
  context.lineWidth = lineWidth;
  context.beginPath();
  for (const [fromX, fromY, toX, toY] of lines) {
    context.moveTo(x(fromX), y(fromY));
    context.lineTo(x(toX), y(toY));
  }
  context.stroke();
}

function dotted<Picture>({ context }: Panel<Picture>, { left, top, width, height }: Rect): void {
  context.save();
  context.setLineDash([4, 3]);
  context.strokeStyle = '#ffffff';
  context.lineWidth = 1.2;
  context.beginPath();
  context.rect(left + 1, top + 1, width - 2, height - 2);
  context.stroke();
  context.restore();
}

/** The order of picking, where it fits. */
function number<Picture>(
  { context, cellOf, fontFamily }: Panel<Picture>,
  picked: readonly number[],
  orders: readonly number[],
): void {
  if (picked.length === 0) return;
  const first = cellOf(picked[0]!);
  const size = Math.min(first.width, first.height);
  if (size < NUMBERED) return;
  const fontSize = Math.min(Math.max(Math.round(size * 0.36), 9), 16);
  context.font = `bold ${fontSize}px ${fontFamily}`;
  context.lineWidth = 3;
  context.lineJoin = 'round';
  context.strokeStyle = 'rgba(10, 10, 16, 0.85)';
  context.fillStyle = '#ffffff';
  picked.map(cellOf).forEach(({ left, top }, i) => {
    const text = String(orders[i]! + 1);
    context.strokeText(text, left + 4, top + fontSize + 2);
    context.fillText(text, left + 4, top + fontSize + 2);
  });
}
