/** JSON lines with images in files beside them: one object a line, holding a task's columns. */
import { createReadStream } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { UserError } from '../errors.ts';
import { type BadRows, ImageFile, type PlacedRow, type Row } from './row.ts';

/** A line beyond this is no row but a file of another kind. */
const MAX_LINE = 64 * 2 ** 20;

/**
 * All rows of a file in order, a line in memory at a time; blank lines do not count. The value of `image` is a path relative to the file, or an
 * object with `path` or base64 `bytes`; it becomes what a Parquet file would hold. A column that a line lacks counts as null, but the first line
 * must have them all.
 * @param onBad called with lines that are no JSON object; without it they are an error.
 * @throws UserError naming file and line.
 */
export async function* readJsonLines(
  path: string,
  columns: readonly string[],
  onBad?: (bad: BadRows) => void,
): AsyncGenerator<PlacedRow> {
  let index = 0;
  let first = true;
  for await (const { number, bytes } of lines(path)) {
    const place = `${path} line ${number}`;
    let row: Row;
    try {
      row = parseLine(bytes, place, number === 1);
    } catch (error) {
      if (!onBad || !(error instanceof UserError)) throw error;
      onBad({ place, message: error.message, rows: 1 });
      index++;
      continue;
    }
    if (first) {
      const missing = columns.filter((column) => !Object.hasOwn(row, column));
      if (missing.length > 0) {
        throw new UserError(
          `${place} has no column ${missing.join(', ')}; its columns are ${Object.keys(row).join(', ')}`,
        );
      }
      first = false;
    }
    const values = columns.map((column) => [column, column === 'image' ? image(row, path) : (row[column] ?? null)]);
    yield { row: Object.fromEntries(values), index: index++, place };
  }
}

function parseLine(bytes: Uint8Array, place: string, isFirst: boolean): Row {
  let value: unknown;
  try {
    // A byte order mark is legal for editors but not for JSON.parse; the decoder drops it only where it may stand.
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: !isFirst }).decode(bytes));
  } catch (error) {
    throw new UserError(`${place} is not JSON in UTF-8: ${(error as Error).message}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new UserError(`${place} should be a JSON object with a row's columns`);
  }
  return value as Row;
}

function image(row: Row, file: string): unknown {
  const value = row.image;
  if (value === null || value === undefined || value === '') return null;
  if (typeof value === 'string') return new ImageFile(resolve(dirname(file), value));
  if (typeof value !== 'object') return value;
  const { bytes, path } = value as { bytes?: unknown; path?: unknown };
  if (typeof bytes === 'string') return { bytes: new Uint8Array(Buffer.from(bytes, 'base64')), path: path ?? null };
  return typeof path === 'string' && path !== '' ? new ImageFile(resolve(dirname(file), path)) : null;
}

async function* lines(path: string): AsyncGenerator<{ number: number; bytes: Uint8Array }> {
  let number = 0;
  let pending: Buffer[] = [];
  let length = 0;
  const take = () => {
    const bytes = Buffer.concat(pending);
    pending = [];
    length = 0;
    number++;
    return bytes.every((byte) => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d)) ? null : { number, bytes };
  };
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
      let start = 0;
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
        pending.push(chunk.subarray(start, end));
        start = end + 1;
        const line = take();
        if (line) yield line;
      }
      pending.push(chunk.subarray(start));
      length += chunk.length - start;
      if (length > MAX_LINE)
        throw new UserError(`${path} line ${number + 1} is longer than ${MAX_LINE >> 20} MiB; is it JSON lines?`);
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new UserError(`data file not found: ${path}`);
    if (code) throw new UserError(`cannot read ${path}: ${message}`);
    throw error;
  }
  const line = take();
  if (line) yield line;
}
