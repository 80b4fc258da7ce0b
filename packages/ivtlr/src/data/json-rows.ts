/** JSON lines, or a JSON file that holds a list, with images in files beside them: one object a row, holding a task's columns. */
import { createReadStream, statSync } from 'node:fs';
import { UserError } from '../errors.ts';
import { readJson } from '../files.ts';
import { columnsFromMessages } from './messages.ts';
import { type BadRows, noColumn, type PlacedRow, type Row } from './row.ts';

/** A line beyond this is no row but a file of another kind. */
const MAX_LINE = 64 * 2 ** 20;
/** A list is parsed as a whole, which takes several times its size in memory. */
const MAX_LIST = 256 * 2 ** 20;

/**
 * All rows of a file in order; of JSON lines one is in memory at a time, and blank ones do not count. A column that a row lacks counts as null,
 * but the first row must have all of `columns`. What a conversation in `messages` says is put into columns (see `columnsFromMessages`).
 * @param onBad called with what is no JSON object; without it that is an error.
 * @param optional columns to read where they are there
 * @throws UserError naming file and row.
 */
export async function* readJsonRows(
  path: string,
  columns: readonly string[],
  onBad?: (bad: BadRows) => void,
  optional: readonly string[] = [],
): AsyncGenerator<PlacedRow> {
  const wanted = [...columns, ...optional];
  let index = 0;
  let first = true;
  for await (const { place, value } of path.endsWith('.json') ? listed(path) : lineByLine(path)) {
    let row: Row;
    try {
      row = asRow(value(), place);
      if (Array.isArray(row.messages) && !wanted.includes('messages')) row = columnsFromMessages(row, place);
    } catch (error) {
      if (!onBad || !(error instanceof UserError)) throw error;
      onBad({ place, message: error.message, rows: 1 });
      index++;
      continue;
    }
    if (first) {
      const missing = columns.filter((column) => !Object.hasOwn(row, column));
      if (missing.length > 0) throw noColumn(place, missing, Object.keys(row));
      first = false;
    }
    const values = wanted.map((column) => [column, Object.hasOwn(row, column) ? (row[column] ?? null) : null]);
    yield { row: Object.fromEntries(values), index: index++, place };
  }
}

/** A row that has not been parsed yet. */
interface Unparsed {
  place: string;
  value(): unknown;
}

async function* lineByLine(path: string): AsyncGenerator<Unparsed> {
  for await (const { number, bytes } of lines(path)) {
    const place = `${path} line ${number}`;
    yield { place, value: () => parseLine(bytes, place, number === 1) };
  }
}

function* listed(path: string): Generator<Unparsed> {
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size > MAX_LIST) {
    throw new UserError(
      `${path} is larger than ${MAX_LIST >> 20} MiB; write it as JSON lines (.jsonl), one row a line`,
    );
  }
  const list = readJson(path, 'data file');
  if (!Array.isArray(list)) throw new UserError(`${path} should hold a list of rows: [{..}, {..}]`);
  for (const [index, value] of list.entries()) yield { place: `${path} row ${index}`, value: () => value };
}

function parseLine(bytes: Uint8Array, place: string, isFirst: boolean): unknown {
  try {
    // A byte order mark is legal for editors but not for JSON.parse; the decoder drops it only where it may stand.
    return JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: !isFirst }).decode(bytes));
  } catch (error) {
    throw new UserError(`${place} is not JSON in UTF-8: ${(error as Error).message}`);
  }
}

function asRow(value: unknown, place: string): Row {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new UserError(`${place} should be a JSON object with a row's columns`);
  }
  return value as Row;
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
