/** Rows of different lengths become one batch: padded on both sides so that the latent slots stand in the same columns. */
import type { ProcessedImage } from '../models/types.ts';
import { type CarriedTokens, IGNORE, type Rendered } from './render.ts';

/** Plain numbers; B rows of S columns. Pads carry the pad id, label -100 and attention 0. */
export interface Batch<Image = ProcessedImage> {
  inputIds: number[][];
  labels: number[][];
  attentionMask: number[][];
  /** Column of every row's first latent slot (without slots: of the first token after the prompt). */
  latentStart: number;
  /** T, the same for all rows. */
  latentSteps: number;
  /** Of each row, in the order of their tokens. */
  images: (readonly Image[])[];
  pickTargets: (number[][] | null)[];
  /** Absent where no row knows what its steps hand on. */
  carried?: (CarriedTokens | null)[];
}

/**
 * Left-pads so that all prompts end in one column, then right-pads.
 * @param images of each row, in the order of their tokens
 * @throws RangeError when rows have different numbers of latent slots: see `groupByLatents`.
 */
export function collate<Image = ProcessedImage>(
  rows: readonly Rendered[],
  images: readonly (readonly Image[])[],
  padId: number,
): Batch<Image> {
  const first = rows[0];
  if (!first) throw new RangeError('a batch needs at least one row');
  if (images.length !== rows.length)
    throw new RangeError(`${rows.length} rows need as many lists of images, not ${images.length}`);
  if (rows.some((row) => row.latentSteps !== first.latentSteps)) {
    throw new RangeError(
      `rows of one batch need the same number of latent slots, not ${rows.map((row) => row.latentSteps)}`,
    );
  }
  const latentStart = Math.max(...rows.map((row) => row.latentStart));
  const width = latentStart + Math.max(...rows.map((row) => row.ids.length - row.latentStart));
  const pad = (row: Rendered, values: readonly number[], filler: number) => {
    const left = latentStart - row.latentStart;
    const padded = new Array<number>(width).fill(filler);
    values.forEach((value, index) => {
      padded[left + index] = value;
    });
    return padded;
  };
  return {
    inputIds: rows.map((row) => pad(row, row.ids, padId)),
    labels: rows.map((row) => pad(row, row.labels, IGNORE)),
    attentionMask: rows.map((row) => pad(row, new Array<number>(row.ids.length).fill(1), 0)),
    latentStart,
    latentSteps: first.latentSteps,
    images: [...images],
    pickTargets: rows.map((row) => row.pickTargets ?? null),
    ...(rows.some(({ carried }) => carried) && { carried: rows.map((row) => row.carried ?? null) }),
  };
}

/** Rows with equal numbers of latent slots, in order of first appearance: each group can be one batch. */
export function groupByLatentSteps(rows: readonly Rendered[]): Rendered[][] {
  const groups = new Map<number, Rendered[]>();
  for (const row of rows) {
    const group = groups.get(row.latentSteps);
    if (group) group.push(row);
    else groups.set(row.latentSteps, [row]);
  }
  return [...groups.values()];
}
