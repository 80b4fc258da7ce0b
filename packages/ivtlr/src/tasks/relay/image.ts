/** Draws dominoes with dots above them, in the cells and colours of the task dominoes. */
import type { Random } from '../../random.ts';
import { CELL, drawBody, drawDisc, GRID, IMAGE_SIDE, jittered, type PlacedDomino } from '../dominoes/image.ts';

export interface DottedDomino extends PlacedDomino {
  /** From 0 to MOST_DOTS. */
  dots: number;
}

const BODY = { centreX: 14, centreY: 16.5, halfWidth: 12.5, halfHeight: 7.5 };
/** Disc centres within a cell, pixels. */
const LEFT_X = 8;
const RIGHT_X = 20;
const SMALLEST = 4.2;
const LARGEST = 5.4;
/** Where no, one, two .. dots stand in a row above a domino: around its middle, so that any two numbers look different in all of them. */
const DOTS_X: readonly (readonly number[])[] = [[], [14], [8, 20], [6, 14, 22], [5, 11, 17, 23]];
const DOT = { y: 4.5, radius: 2.2, colour: [220, 220, 220] } as const;
/** Dots that have room. */
export const MOST_DOTS = DOTS_X.length - 1;
/** A domino moves by up to this many pixels each way, its dots with it. */
const SHIFT = 1;

/** Draws an image of IMAGE_SIDE x IMAGE_SIDE pixels; `random` decides the jitter. */
export function drawImage(dominoes: readonly DottedDomino[], random: Random): Uint8Array {
  const pixels = new Uint8Array(IMAGE_SIDE * IMAGE_SIDE * 3);
  for (const { cell, left, right, dots } of dominoes) {
    const originX = (cell % GRID) * CELL + random.between(-SHIFT, SHIFT);
    const originY = Math.floor(cell / GRID) * CELL + random.between(-SHIFT, SHIFT);
    for (const x of DOTS_X[dots]!) drawDisc(pixels, originX + x, originY + DOT.y, DOT.radius, DOT.colour);
    drawBody(pixels, originX + BODY.centreX, originY + BODY.centreY, BODY.halfWidth, BODY.halfHeight);
    for (const [x, colour] of [
      [LEFT_X, left],
      [RIGHT_X, right],
    ] as const)
      drawDisc(
        pixels,
        originX + x,
        originY + BODY.centreY,
        random.between(SMALLEST, LARGEST),
        jittered(colour, random),
      );
  }
  return pixels;
}
