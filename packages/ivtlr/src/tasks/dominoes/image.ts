/** Draws dominoes on black, straight into RGB bytes. Edges are antialiased by exact or near-exact pixel coverage, so no resampling is needed. */
import type { Random } from '../../random.ts';

/** Cells on a side; a cell is two 14-pixel patches square, which Qwen2-VL merges into one image token. */
export const GRID = 4;
export const CELL = 28;
export const IMAGE_SIDE = GRID * CELL;

/** Name and RGB of the eight colours. */
export const COLOURS = [
  ['red', 235, 30, 30],
  ['orange', 255, 140, 0],
  ['yellow', 245, 230, 20],
  ['green', 20, 190, 40],
  ['cyan', 40, 220, 230],
  ['blue', 30, 50, 245],
  ['pink', 240, 60, 220],
  ['white', 250, 250, 250],
] as const;

/** A domino lies in cell `cell` (row-major); `left` and `right` are indices into COLOURS. */
export interface PlacedDomino {
  cell: number;
  left: number;
  right: number;
}

const BODY_GREY = 60;
const BODY_CORNER = 3;
const BODY = { centreX: 14, centreY: 14, halfWidth: 12.5, halfHeight: 8 };
/** Shape centres within a cell, pixels. */
const LEFT_X = 8;
const RIGHT_X = 20;
const CENTRE_Y = 14;
/** Jitter: a domino moves by up to this many pixels each way, a colour channel by up to this many levels. */
const SHIFT = 1.2;
const LEVELS = 12;
const SMALLEST = 4.2;
const LARGEST = 5.6;

/** Draws an image of IMAGE_SIDE x IMAGE_SIDE pixels; `random` decides the jitter and which shape each half shows. */
export function drawImage(dominoes: readonly PlacedDomino[], random: Random): Uint8Array {
  const pixels = new Uint8Array(IMAGE_SIDE * IMAGE_SIDE * 3);
  for (const { cell, left, right } of dominoes) {
    const originX = (cell % GRID) * CELL + random.between(-SHIFT, SHIFT);
    const originY = Math.floor(cell / GRID) * CELL + random.between(-SHIFT, SHIFT);
    drawBody(pixels, originX + BODY.centreX, originY + BODY.centreY, BODY.halfWidth, BODY.halfHeight);
    drawShape(pixels, originX + LEFT_X, originY + CENTRE_Y, left, random);
    drawShape(pixels, originX + RIGHT_X, originY + CENTRE_Y, right, random);
  }
  return pixels;
}

/** A grey plate with round corners; all lengths in pixels. */
export function drawBody(
  pixels: Uint8Array,
  centreX: number,
  centreY: number,
  halfWidth: number,
  halfHeight: number,
): void {
  const innerX = halfWidth - BODY_CORNER;
  const innerY = halfHeight - BODY_CORNER;
  paint(pixels, centreX, centreY, halfWidth, halfHeight, BODY_GREY, BODY_GREY, BODY_GREY, (x, y) => {
    const dx = Math.abs(x) - innerX;
    const dy = Math.abs(y) - innerY;
    const outside = dx > 0 && dy > 0 ? Math.sqrt(dx * dx + dy * dy) : Math.max(dx, dy);
    return BODY_CORNER - outside + 0.5;
  });
}

function drawShape(pixels: Uint8Array, centreX: number, centreY: number, colour: number, random: Random): void {
  const radius = random.between(SMALLEST, LARGEST);
  const shape = random.below(3);
  const [r, g, b] = jittered(colour, random);
  if (shape === 0) {
    drawDisc(pixels, centreX, centreY, radius, [r, g, b]);
  } else if (shape === 1) {
    const half = radius * 0.92;
    const overlap = (at: number) => Math.max(0, Math.min(at + 0.5, half) - Math.max(at - 0.5, -half));
    paint(pixels, centreX, centreY, half, half, r, g, b, (x, y) => overlap(x) * overlap(y));
  } else {
    const reach = radius * 1.15;
    paint(
      pixels,
      centreX,
      centreY,
      reach,
      reach,
      r,
      g,
      b,
      (x, y) => (reach - Math.abs(x) - Math.abs(y)) * Math.SQRT1_2 + 0.5,
    );
  }
}

/** RGB of a colour, each channel up to LEVELS off. */
export function jittered(colour: number, random: Random): [number, number, number] {
  const [, red, green, blue] = COLOURS[colour]!;
  const jitter = (level: number) => Math.min(255, Math.max(0, level + random.below(2 * LEVELS + 1) - LEVELS));
  return [jitter(red), jitter(green), jitter(blue)];
}

/** A disc; centre and radius in pixels. */
export function drawDisc(
  pixels: Uint8Array,
  centreX: number,
  centreY: number,
  radius: number,
  [red, green, blue]: readonly [number, number, number],
): void {
  const coverage = (x: number, y: number) => radius - Math.sqrt(x * x + y * y) + 0.5;
  paint(pixels, centreX, centreY, radius, radius, red, green, blue, coverage);
}

/** Lays a colour over a box; `coverage(x, y)` is the share of the pixel whose centre lies at (x, y) from the shape's centre, clamped here. */
function paint(
  pixels: Uint8Array,
  centreX: number,
  centreY: number,
  reachX: number,
  reachY: number,
  red: number,
  green: number,
  blue: number,
  coverage: (x: number, y: number) => number,
): void {
  const firstX = Math.max(0, Math.floor(centreX - reachX - 0.5));
  const lastX = Math.min(IMAGE_SIDE - 1, Math.ceil(centreX + reachX));
  const firstY = Math.max(0, Math.floor(centreY - reachY - 0.5));
  const lastY = Math.min(IMAGE_SIDE - 1, Math.ceil(centreY + reachY));
  for (let py = firstY; py <= lastY; py++) {
    for (let px = firstX; px <= lastX; px++) {
      const share = Math.min(1, coverage(px + 0.5 - centreX, py + 0.5 - centreY));
      if (share <= 0) continue;
      const at = (py * IMAGE_SIDE + px) * 3;
      pixels[at] = pixels[at]! + (red - pixels[at]!) * share + 0.5;
      pixels[at + 1] = pixels[at + 1]! + (green - pixels[at + 1]!) * share + 0.5;
      pixels[at + 2] = pixels[at + 2]! + (blue - pixels[at + 2]!) * share + 0.5;
    }
  }
}
