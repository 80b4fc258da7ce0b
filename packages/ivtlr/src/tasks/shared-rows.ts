/**
 * Data files that several processes of a machine read once between them: each reads a share, and puts the rows that can be used into a file without
 * a name, in which all of them look up the rows that they need. Only places in these files stay in memory.
 */
import { randomBytes } from 'node:crypto';
import { deserialize, serialize } from 'node:v8';
import { type BadRows, ImageFile, type PlacedRow, type Row, type Share } from '../data/row.ts';
import type { Sample } from '../data/sample.ts';
import { type IndexedSample, type StreamSamplesOptions, sampleOfRow, usableRows } from './read-samples.ts';
import { Spool } from './spool.ts';
import type { Task } from './task.ts';

/** Samples by their number. */
export interface StoredSamples extends Disposable {
  readonly length: number;
  sample(number: number): Sample;
}

/** What the others are told. */
interface Description {
  path: string;
  /** What the file begins with, so that it is not taken for one of another machine. */
  token: string;
  share: Share;
  rows: number;
  /** Where the table begins: for each row its number over all files, where it begins, and its bytes. */
  table: number;
  bad: BadRows[];
}

/** Numbers of a row in the table. */
const WIDTH = 3;
const TOKEN_BYTES = 16;

/** This process's share, for the others, who can find it as long as it is open here. */
export class RowShare implements Disposable {
  /** What another process needs to know to find it. */
  readonly description: string;
  readonly #spool: Spool;

  private constructor(description: string, spool: Spool) {
    this.description = description;
    this.#spool = spool;
  }

  /**
   * Reads a share of the files. With `onBad`, bad rows go into the description, and not to it.
   * @throws UserError as `streamSamples`
   */
  static async read(
    path: string,
    task: Task,
    options: Omit<StreamSamplesOptions, 'limit'>,
    share: Share,
  ): Promise<RowShare> {
    const spool = new Spool();
    try {
      const token = randomBytes(TOKEN_BYTES);
      spool.write(token);
      const bad: BadRows[] = [];
      const onBad = options.onBad && ((rows: BadRows) => void bad.push(rows));
      const places: number[] = [];
      for await (const { placed } of usableRows(path, task, { ...options, onBad, share })) {
        const bytes = serialize({ ...placed, row: withoutClasses(placed.row) });
        places.push(placed.index, spool.write(bytes), bytes.length);
      }
      const table = spool.write(new Uint8Array(Float64Array.from(places).buffer));
      const found = { path: spool.path, token: token.toString('hex'), share, rows: places.length / WIDTH, table, bad };
      return new RowShare(JSON.stringify(found satisfies Description), spool);
    } catch (error) {
      spool[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#spool[Symbol.dispose]();
  }
}

/** All bad rows, in the order of the shares. */
export function badRowsOf(descriptions: readonly string[]): BadRows[] {
  return descriptions.flatMap((text) => (JSON.parse(text) as Description).bad);
}

/** The rows of all shares that together are whole files, looked up where they lie. */
export class SharedRows implements StoredSamples {
  readonly #task: Task;
  readonly #spools: Spool[] = [];
  /** For each row: which spool, where it begins, and its bytes. */
  readonly #places: Float64Array;

  private constructor(task: Task, descriptions: readonly Description[], spools: Spool[]) {
    this.#task = task;
    this.#spools = spools;
    const rows = descriptions.flatMap(({ table, rows: count }, spool) => {
      const bytes = spools[spool]!.read(table, count * WIDTH * 8);
      const numbers = new Float64Array(bytes.buffer, 0, count * WIDTH);
      return Array.from({ length: count }, (_, i) => [spool, ...numbers.subarray(i * WIDTH, (i + 1) * WIDTH)] as const);
    });
    rows.sort(([, a], [, b]) => a! - b!);
    this.#places = Float64Array.from(rows.flatMap(([spool, , start, length]) => [spool, start!, length!]));
  }

  /** @returns null where this process cannot open a share of the files, as on another machine than theirs */
  static open(descriptions: readonly string[], task: Task): SharedRows | null {
    const spools: Spool[] = [];
    const found: Description[] = [];
    for (const text of descriptions) {
      const description = JSON.parse(text) as Description;
      if (found.some(({ share }) => share.index === description.share.index)) continue;
      const spool = opened(description);
      if (!spool) continue;
      spools.push(spool);
      found.push(description);
    }
    const complete = found.length > 0 && found.every(({ share }) => share.of === found.length);
    if (complete) return new SharedRows(task, found, spools);
    for (const spool of spools) spool[Symbol.dispose]();
    return null;
  }

  get length(): number {
    return this.#places.length / WIDTH;
  }

  /** Bytes that this process holds of all rows. */
  get bytesKept(): number {
    return this.#places.byteLength;
  }

  sample(number: number): IndexedSample {
    const [spool, start, length] = this.#places.subarray(number * WIDTH, (number + 1) * WIDTH);
    const stored = deserialize(this.#spools[spool!]!.read(start!, length!)) as PlacedRow;
    return sampleOfRow(this.#task, { ...stored, row: withClasses(stored.row) })!;
  }

  [Symbol.dispose](): void {
    for (const spool of this.#spools.splice(0)) spool[Symbol.dispose]();
  }
}

function opened({ path, token }: Description): Spool | null {
  try {
    const spool = new Spool(path);
    if (Buffer.from(spool.read(0, TOKEN_BYTES)).toString('hex') === token) return spool;
    spool[Symbol.dispose]();
  } catch {} // it is of another machine, or not for this process to read
  return null;
}

/** An image file as it is stored. */
interface Named {
  imageFile: string;
}

function eachImage(row: Row, change: (image: unknown) => unknown): Row {
  const { image, images } = row;
  return {
    ...row,
    ...('image' in row && { image: change(image) }),
    ...('images' in row && { images: Array.isArray(images) ? images.map(change) : images }),
  };
}

function withoutClasses(row: Row): Row {
  return eachImage(row, (image) => (image instanceof ImageFile ? ({ imageFile: image.path } satisfies Named) : image));
}

function withClasses(row: Row): Row {
  return eachImage(row, (image) => {
    const path = (image as Partial<Named> | null)?.imageFile;
    return path === undefined ? image : new ImageFile(path);
  });
}
