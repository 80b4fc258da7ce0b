/** Data files as samples in memory, images perhaps on disk. */
import { findDataFiles } from '../data/find-files.ts';
import { type BadRows, imagesOfRow, type PlacedRow, type Share } from '../data/row.ts';
import { readRows } from '../data/rows.ts';
import type { RawImage, Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { decodeImage } from '../vision/decode.ts';
import { Spool } from './spool.ts';
import type { Task } from './task.ts';

export interface StreamSamplesOptions {
  /** Which files of a folder; default: all. */
  split?: string | undefined;
  /** The task's column -> its name in the files, where that is another. */
  columnNames?: Readonly<Record<string, string>> | undefined;
  /** At most this many samples. */
  limit?: number;
  /**
   * Called with every row that cannot be used: unreadable, of wrong types, or with a broken image; reading then goes on. To find broken images
   * each is decoded once. Without it the first such row is an error, and a broken image one when it is used.
   */
  onBad?: ((bad: BadRows) => void) | undefined;
  /** With `onBad`, in place of decoding: throws a UserError for a sample that the model cannot take, or whose images are broken. */
  usable?: ((sample: Sample) => Promise<void>) | undefined;
  /** What a question needs will do (default); training needs the written reasoning too. */
  purpose?: 'answer' | 'train';
  /** Reads a part of the files; default: all. */
  share?: Share | undefined;
}

export interface ReadSamplesOptions extends StreamSamplesOptions {
  /** Encoded images beyond this many bytes in all wait in a temporary file instead of memory. */
  memoryBytes?: number;
}

/** A sample and the row it came from, counted over all rows, those without an image too. */
export type IndexedSample = Sample & { rowIndex: number };

/** Images decoded at once while they are checked. */
const CHECKS_AHEAD = 4;

/**
 * Samples of a task from a Parquet or JSON lines file or a folder of them, in order; rows that have no image and no list `images` are left out. Memory stays bounded by
 * the files' row groups.
 * @throws UserError when files, columns or (without `onBad`) rows are unusable.
 */
export async function* streamSamples(
  path: string,
  task: Task,
  options: StreamSamplesOptions = {},
): AsyncGenerator<IndexedSample> {
  for await (const { sample } of usableRows(path, task, options)) yield sample;
}

/** A row, and what the task makes of it. */
interface UsableRow {
  placed: PlacedRow;
  sample: IndexedSample;
}

/** As `streamSamples`, with the rows that the samples come from. */
export async function* usableRows(path: string, task: Task, options: StreamSamplesOptions): AsyncGenerator<UsableRow> {
  const { split, limit = Number.POSITIVE_INFINITY, onBad, usable = decodable } = options;
  const files = await findDataFiles(path, split);
  let found = 0;
  if (limit <= 0) return;
  const rows = rowsWithSamples(files, task, options);
  for await (const row of onBad ? checked(rows, usable, onBad) : rows) {
    yield row;
    if (++found >= limit) return;
  }
}

/** What the task makes of a row, null without image. @throws UserError when the row is unusable */
export function sampleOfRow(task: Task, { row, index, place }: PlacedRow): IndexedSample | null {
  const images = imagesOfRow(row, place);
  const sample = task.rowToSample({ ...row, image: images?.[0] ?? null, images }, place, index);
  return sample && Object.assign(sample, { rowIndex: index });
}

async function* rowsWithSamples(
  files: readonly string[],
  task: Task,
  { columnNames: names, onBad, purpose, share }: StreamSamplesOptions,
): AsyncGenerator<UsableRow> {
  const { columns, trainingColumns, optionalColumns } = task;
  const wanted =
    purpose === 'train'
      ? { required: [...columns, ...trainingColumns], optional: optionalColumns, names }
      : { required: columns, optional: [...trainingColumns, ...optionalColumns], names };
  for await (const placed of readRows(files, wanted, onBad, share)) {
    let sample: IndexedSample | null;
    try {
      sample = sampleOfRow(task, placed);
    } catch (error) {
      if (!onBad || !(error instanceof UserError)) throw error;
      onBad({ place: placed.place, message: error.message, rows: 1 });
      continue;
    }
    if (sample) yield { placed, sample };
  }
}

async function decodable({ images }: Sample): Promise<void> {
  await Promise.all(images.map((image) => decodeImage(image)));
}

/** Leaves out rows whose sample is not usable; a few are looked at at once, and the order stays. */
async function* checked(
  rows: AsyncIterable<UsableRow>,
  usable: (sample: Sample) => Promise<void>,
  onBad: (bad: BadRows) => void,
): AsyncGenerator<UsableRow> {
  const ahead: { row: UsableRow; failure: Promise<unknown> }[] = [];
  const next = async () => {
    const { row, failure } = ahead.shift()!;
    const error = await failure;
    if (error === null) return row;
    if (!(error instanceof UserError)) throw error;
    const { place } = row.placed;
    const message = error.message.includes(place) ? error.message : `${place}: ${error.message}`;
    onBad({ place, message, rows: 1 });
    return null;
  };
  for await (const row of rows) {
    // Failures are values here: a rejection that nobody awaits yet would end the process.
    ahead.push({
      row,
      failure: usable(row.sample).then(
        () => null,
        (error: unknown) => error,
      ),
    });
    if (ahead.length < CHECKS_AHEAD) continue;
    const whole = await next();
    if (whole) yield whole;
  }
  while (ahead.length > 0) {
    const whole = await next();
    if (whole) yield whole;
  }
}

/**
 * Reads all samples. Training in random order needs every image at any time, which row groups cannot give, so the images are read once and
 * kept; those in files of their own stay there.
 * @throws UserError as `streamSamples`, and when no row has an image.
 */
export async function readSamples(
  path: string,
  task: Task,
  options: ReadSamplesOptions = {},
): Promise<IndexedSample[]> {
  const { memoryBytes = 512 * 2 ** 20 } = options;
  const samples: IndexedSample[] = [];
  let kept = 0;
  let spool: Spool | undefined;
  for await (const sample of streamSamples(path, task, options)) {
    sample.images = sample.images.map((image) => {
      if (image.kind !== 'encoded' || Object.getOwnPropertyDescriptor(image, 'bytes')?.get) return image;
      kept += image.bytes.length;
      // The bytes are a view of a whole row group, which a copy lets go.
      if (kept <= memoryBytes) return { ...image, bytes: Uint8Array.from(image.bytes) };
      spool ??= new Spool();
      return spooled(spool, image.bytes, image.name);
    });
    samples.push(sample);
  }
  if (samples.length === 0) throw new UserError(`${path}: no row has an image`);
  return samples;
}

/** An image whose bytes are read anew at each look. */
function spooled(spool: Spool, bytes: Uint8Array, name: string): RawImage {
  const start = spool.write(bytes);
  const { length } = bytes;
  return {
    kind: 'encoded',
    name,
    get bytes() {
      return spool.read(start, length);
    },
  };
}
