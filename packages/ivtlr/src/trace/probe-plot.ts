/** What probes read from latent steps: for text, patches and shuffled values a grid of latent steps by written steps. */
import { createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import type { Probe, ProbeCell, ProbeScore } from '../eval/probe.ts';
import { heatColour } from './heat-colours.ts';
import { FONT, loadFonts } from './trace-font.ts';

const CELL = { width: 92, height: 46 };
const EDGE = 20;
const TOP = 104;
const BOTTOM = 20;
const GAP = 36;
/** Of the names of the rows, before the first grid. */
const NAMES = 92;

interface Grid {
  title: string;
  score(cell: ProbeCell): ProbeScore | null;
}

const GRIDS: readonly Grid[] = [
  { title: 'from the latent text', score: ({ text }) => text },
  { title: 'from the picked patches', score: ({ patches }) => patches },
  { title: 'text, values shuffled', score: ({ textShuffled }) => textShuffled },
];

/** The drawing as the bytes of a PNG file. */
export function drawProbe({ cells }: Probe): Buffer {
  loadFonts();
  const steps = Math.max(...cells.map(({ step }) => step));
  const written = Math.max(...cells.map(({ written }) => written));
  const grids = GRIDS.filter(({ score }) => cells.some((cell) => score(cell) !== null));
  const gridWidth = Math.max(2, written) * CELL.width;
  const width = EDGE + NAMES + grids.length * (gridWidth + GAP) - GAP + EDGE;
  const height = TOP + (steps + 1) * CELL.height + BOTTOM;
  const canvas = createCanvas(width, height);
  const ctx = canvas.getContext('2d');
  ctx.fillStyle = '#ffffff';
  ctx.fillRect(0, 0, width, height);
  ctx.fillStyle = '#222222';
  ctx.font = `bold 16px ${FONT}`;
  ctx.fillText(
    'Accuracy of a linear probe for the value of each written step, 95% interval',
    EDGE,
    28,
    width - 2 * EDGE,
  );
  ctx.font = `13px ${FONT}`;
  for (let step = 1; step <= steps; step++)
    ctx.fillText(`latent step ${step}`, EDGE, rowMiddle(step - 1) + 5, NAMES - 6);
  ctx.fillStyle = '#777777';
  ctx.fillText('most frequent', EDGE, rowMiddle(steps) + 5, NAMES - 6);
  grids.forEach((grid, index) => {
    const left = EDGE + NAMES + index * (gridWidth + GAP);
    drawGrid(ctx, grid, cells, left, { steps, written });
  });
  return canvas.toBuffer('image/png');
}

function rowMiddle(row: number): number {
  return TOP + (row + 0.5) * CELL.height;
}

function drawGrid(
  ctx: SKRSContext2D,
  { title, score }: Grid,
  cells: readonly ProbeCell[],
  left: number,
  { steps, written }: { steps: number; written: number },
): void {
  const middle = (column: number) => left + (column + 0.5) * CELL.width;
  ctx.textAlign = 'left';
  ctx.fillStyle = '#222222';
  ctx.font = `bold 13px ${FONT}`;
  ctx.fillText(title, left, 60);
  ctx.textAlign = 'center';
  ctx.font = `12px ${FONT}`;
  for (let column = 0; column < written; column++) ctx.fillText(`value ${column + 1}`, middle(column), TOP - 12);
  for (const cell of cells) {
    const found = score(cell);
    if (!found) continue;
    const [red, green, blue] = heatColour(found.accuracy);
    const x = left + (cell.written - 1) * CELL.width;
    const y = TOP + (cell.step - 1) * CELL.height;
    ctx.fillStyle = `rgb(${red}, ${green}, ${blue})`;
    ctx.fillRect(x + 1, y + 1, CELL.width - 2, CELL.height - 2);
    ctx.fillStyle = found.accuracy > 0.55 ? '#000000' : '#ffffff';
    ctx.font = `bold 14px ${FONT}`;
    ctx.fillText(share(found.accuracy), middle(cell.written - 1), y + 20);
    ctx.font = `11px ${FONT}`;
    ctx.fillText(found.interval95.map(share).join(' - '), middle(cell.written - 1), y + 37);
  }
  ctx.fillStyle = '#777777';
  ctx.font = `12px ${FONT}`;
  for (let column = 0; column < written; column++) {
    const cell = cells.find((candidate) => candidate.written === column + 1);
    if (cell) ctx.fillText(share(cell.mostFrequent), middle(column), rowMiddle(steps) + 5);
  }
  ctx.textAlign = 'left';
}

function share(value: number): string {
  return value.toFixed(3).replace(/^0\./, '.');
}
