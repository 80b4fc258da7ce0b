// Dominoes puzzles, drawn plainly and without any library: a chain of colours over a 4x4 grid of 28-pixel cells.
import { crc32, deflateSync } from 'node:zlib';

const CELL = 28;
const GRID = 4;
const SIDE = CELL * GRID;

export const COLOURS = [
  ['red', [230, 40, 30]],
  ['green', [30, 190, 50]],
  ['blue', [30, 60, 240]],
  ['yellow', [245, 230, 20]],
  ['orange', [255, 140, 10]],
  ['cyan', [40, 225, 240]],
  ['white', [250, 255, 255]],
  ['pink', [250, 120, 190]],
];

const drawn = new Map();

/** @returns {{ image: string, question: string, choices: string[], answer: string, cells: number[], chain: string[] }} the same for the same seed */
export function makePuzzle(seed) {
  const random = generator(seed);
  const names = shuffle(COLOURS, random);
  const cells = shuffle([...Array(GRID * GRID).keys()], random).slice(0, 7);
  const pixels = Buffer.alloc(SIDE * SIDE * 3);
  cells.forEach((cell, index) => {
    drawDomino(pixels, cell, names[index][1], names[index + 1][1]);
  });
  const right = names[3][0];
  const choices = shuffle([right, names[1][0], names[5][0], names[6][0]], random);
  const puzzle = {
    image: `data:image/png;base64,${encodePng(pixels).toString('base64')}`,
    question: `Start at ${names[0][0]}, follow 3 dominoes: which colour?`,
    choices,
    answer: 'ABCD'[choices.indexOf(right)],
    cells,
    chain: [0, 1, 2].map((index) => `${names[index][0]} to ${names[index + 1][0]}`),
  };
  drawn.set(puzzle.image, puzzle);
  return puzzle;
}

/** The puzzle whose picture this is, if this process drew it. */
makePuzzle.byImage = (url) => drawn.get(url) ?? null;

/** Size of a picture in a data URL: of a PNG its own, of others 280x196. */
export function readPngSize(url) {
  const bytes = Buffer.from(url.slice(url.indexOf(',') + 1), 'base64');
  if (!url.startsWith('data:image/png')) return { width: 280, height: 196 };
  return { width: bytes.readUInt32BE(16), height: bytes.readUInt32BE(20) };
}

function drawDomino(pixels, cell, left, right) {
  const atX = (cell % GRID) * CELL;
  const atY = Math.floor(cell / GRID) * CELL;
  const fill = (x0, y0, x1, y1, colour) => {
    for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) pixels.set(colour, ((atY + y) * SIDE + atX + x) * 3);
  };
  fill(2, 6, 26, 22, [58, 58, 58]);
  fill(4, 10, 12, 18, left);
  fill(16, 10, 24, 18, right);
}

/** 24-bit RGB. */
function encodePng(pixels) {
  const rows = Array.from({ length: SIDE }, (_, y) =>
    Buffer.concat([Buffer.from([0]), pixels.subarray(y * SIDE * 3, (y + 1) * SIDE * 3)]),
  );
  const head = Buffer.alloc(13);
  head.writeUInt32BE(SIDE, 0);
  head.writeUInt32BE(SIDE, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(data.length);
    const check = Buffer.alloc(4);
    check.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, check]);
  };
  const signature = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
  const data = deflateSync(Buffer.concat(rows));
  return Buffer.concat([signature, chunk('IHDR', head), chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))]);
}

function generator(seed) {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function shuffle(items, random) {
  const left = [...items];
  return items.map(() => left.splice(Math.floor(random() * left.length), 1)[0]);
}
