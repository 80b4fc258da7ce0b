/** Data files as samples in memory, pictures perhaps on disk. */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findParquetFiles, readParquet } from '../data/parquet.ts';
import type { RawImage, Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import type { Split, Task } from './task.ts';

export interface ReadSamplesOptions {
  split?: Split;
  /** At most this many samples. */
  limit?: number;
  /** Encoded pictures beyond this many bytes in all wait in a temporary file instead of memory. */
  memoryBytes?: number;
}

/** A sample and the row it came from, counted over all rows, those without an image too. */
export type IndexedSample = Sample & { rowIndex: number };

/**
 * Reads the samples of a task from a Parquet file or a folder of them, in order; rows without an image are left out. Training in random order
 * needs every picture at any time, which row groups cannot give, so the pictures are read once and kept.
 * @throws UserError when files, columns or rows are unusable, or no row has an image.
 */
export async function readSamples(
  path: string,
  task: Task,
  options: ReadSamplesOptions = {},
): Promise<IndexedSample[]> {
  const { split, limit = Number.POSITIVE_INFINITY, memoryBytes = 512 * 2 ** 20 } = options;
  const files = await findParquetFiles(path, split);
  const samples: IndexedSample[] = [];
  let kept = 0;
  let spool: Spool | undefined;
  for await (const { row, index, place } of readParquet(files, task.columns)) {
    if (samples.length >= limit) break;
    const sample = task.rowToSample(row, place);
    if (!sample) continue;
    if (sample.image.kind === 'encoded') {
      kept += sample.image.bytes.length;
      if (kept <= memoryBytes) {
        // The bytes are a view of a whole row group, which a copy lets go.
        sample.image.bytes = Uint8Array.from(sample.image.bytes);
      } else {
        spool ??= new Spool();
        sample.image = spool.keep(sample.image.bytes, sample.image.name);
      }
    }
    samples.push({ ...sample, rowIndex: index });
  }
  if (samples.length === 0) throw new UserError(`${path}: no row has an image`);
  return samples;
}

/** A nameless temporary file; the system removes it when the process ends, however that happens. */
class Spool {
  readonly #handle: number;
  #end = 0;

  constructor() {
    const folder = mkdtempSync(join(tmpdir(), 'ivtlr-pictures-'));
    this.#handle = openSync(join(folder, 'spool'), 'w+');
    rmSync(folder, { recursive: true });
    spoolRegistry.register(this, this.#handle);
  }

  /** Stores the bytes; each look at `bytes` of the returned image reads them anew. */
  keep(bytes: Uint8Array, name: string): RawImage {
    const start = this.#end;
    for (let at = 0; at < bytes.length; ) at += writeSync(this.#handle, bytes, at, bytes.length - at, start + at);
    this.#end += bytes.length;
    const read = () => this.#read(start, bytes.length);
    return {
      kind: 'encoded',
      name,
      get bytes() {
        return read();
      },
    };
  }

  #read(start: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const read = readSync(this.#handle, bytes, at, length - at, start + at);
      if (read === 0) throw new Error('the temporary file of pictures was cut short');
      at += read;
    }
    return bytes;
  }
}

const spoolRegistry = new FinalizationRegistry((handle: number) => closeSync(handle));
