/** JSON lines, or a JSON file that holds a list, with images in files beside them: one object a row, holding a task's columns. */
import { createReadStream } from 'node:fs';
import { UserError } from '../errors.ts';
import { columnsFromMessages } from './messages.ts';
import { type BadRows, missingColumns, noColumn, type PlacedRow, type Row, type Skip } from './row.ts';

/** A line beyond this is no row but a file of another kind. */
const MAX_LINE = 64 * 2 ** 20;
/** Lists and objects of a row: in memory each takes many times its two bytes. */
const MANY = 2 ** 20;
const BYTE_ORDER_MARK = Buffer.from('\ufeff');
const [NEWLINE, QUOTE, COMMA, OPEN_LIST, BACKSLASH] = [0x0a, 0x22, 0x2c, 0x5b, 0x5c];

/**
 * All rows of a file in order, one in memory at a time; blank lines do not count. A column that a row lacks counts as null,
 * but the first row must have all of `columns`. What a conversation in `messages` says is put into columns (see `columnsFromMessages`).
 * @param onBad called with what is no JSON object; without it that is an error.
 * @param optional columns to read where they are there
 * @param skip says which rows are left out, without being parsed
 * @throws UserError naming file and row.
 */
export async function* readJsonRows(
  path: string,
  columns: readonly string[],
  onBad?: (bad: BadRows) => void,
  optional: readonly string[] = [],
  skip: Skip = () => false,
): AsyncGenerator<PlacedRow> {
  const wanted = [...columns, ...optional];
  let index = 0;
  let first = true;
  for await (const { place, value } of path.endsWith('.json') ? listed(path) : lineByLine(path)) {
    const skipped = skip(1);
    // The first row is looked at in any case, since it says which columns there are.
    if (skipped && !first) {
      index++;
      continue;
    }
    let row: Row;
    try {
      row = asRow(value(), place);
      if (Array.isArray(row.messages) && !wanted.includes('messages')) row = columnsFromMessages(row, place);
    } catch (error) {
      if (!onBad || !(error instanceof UserError)) throw error;
      if (!skipped) onBad({ place, message: error.message, rows: 1 });
      index++;
      continue;
    }
    if (first) {
      const missing = missingColumns(columns, Object.keys(row));
      if (missing.length > 0) throw noColumn(place, missing, Object.keys(row));
      first = false;
    }
    if (skipped) {
      index++;
      continue;
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

interface Piece {
  number: number;
  bytes: Buffer;
}

async function* lineByLine(path: string): AsyncGenerator<Unparsed> {
  for await (const { number, bytes } of lines(path)) {
    const place = `${path} line ${number}`;
    yield { place, value: () => parseLine(bytes, place, number === 1) };
  }
}

async function* listed(path: string): AsyncGenerator<Unparsed> {
  for await (const { number, bytes } of listItems(path)) {
    const place = `${path} row ${number}`;
    yield { place, value: () => parseLine(bytes, place, false) };
  }
}

function parseLine(bytes: Uint8Array, place: string, isFirst: boolean): unknown {
  if (bytes.length > MANY && bytes.reduce((sum, byte) => sum + (isOpening(byte) ? 1 : 0), 0) > MANY)
    throw new UserError(`${place} holds more than ${MANY} lists and objects; is it a row?`);
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

async function* lines(path: string): AsyncGenerator<Piece> {
  let number = 0;
  const piece = new Growing(path, 'line');
  const take = (): Piece | null => {
    const bytes = piece.take();
    number++;
    return bytes.every(isBlank) ? null : { number, bytes };
  };
  for await (const chunk of chunks(path)) {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      piece.add(chunk.subarray(start, end), number + 1);
      start = end + 1;
      const line = take();
      if (line) yield line;
    }
    piece.add(chunk.subarray(start), number + 1);
  }
  const line = take();
  if (line) yield line;
}

/** The values of a JSON list one by one, cut apart at the commas between them; whether a value is valid JSON is left to the parser. */
async function* listItems(path: string): AsyncGenerator<Piece> {
  let number = 0;
  const piece = new Growing(path, 'row');
  // 0 outside the list, 1 between its values and in plain ones, more in lists and objects.
  let depth = 0;
  let ended = false;
  let inText = false;
  let escaped = false;
  let isFirst = true;
  for await (const chunk of chunks(path)) {
    let start = 0;
    for (let at = isFirst && chunk.subarray(0, 3).equals(BYTE_ORDER_MARK) ? 3 : 0; at < chunk.length; at++) {
      const byte = chunk[at]!;
      if (inText) {
        if (escaped) escaped = false;
        else if (byte === BACKSLASH) escaped = true;
        else inText = byte !== QUOTE;
      } else if (depth === 0) {
        if (isBlank(byte)) continue;
        if (ended || byte !== OPEN_LIST)
          throw new UserError(`${path} should hold a list of rows and no more: [{..}, {..}]`);
        depth = 1;
        start = at + 1;
      } else if (byte === QUOTE) inText = true;
      else if (isOpening(byte)) depth++;
      else if (isClosing(byte)) depth--;
      if (depth === 0 || (depth === 1 && byte === COMMA && !inText)) {
        piece.add(chunk.subarray(start, at), number);
        start = at + 1;
        ended = depth === 0;
        const bytes = piece.take();
        if (!ended || number > 0 || !bytes.every(isBlank)) yield { number, bytes };
        number++;
      }
    }
    if (depth > 0) piece.add(chunk.subarray(start), number);
    isFirst = false;
  }
  if (!ended)
    throw new UserError(
      `${path} should hold a list of rows: [{..}, {..}], but ends ${number === 0 && depth === 0 ? 'before it begins' : `in row ${number}`}`,
    );
}

/** Bytes of a line or value, put together from the chunks they come in. */
class Growing {
  readonly #path: string;
  readonly #unit: string;
  #parts: Buffer[] = [];
  #length = 0;

  constructor(path: string, unit: string) {
    this.#path = path;
    this.#unit = unit;
  }

  add(bytes: Buffer, number: number): void {
    this.#parts.push(bytes);
    this.#length += bytes.length;
    if (this.#length > MAX_LINE)
      throw new UserError(
        `${this.#path} ${this.#unit} ${number} is longer than ${MAX_LINE >> 20} MiB; is it JSON lines?`,
      );
  }

  take(): Buffer {
    const bytes = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#length = 0;
    return bytes;
  }
}

async function* chunks(path: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) yield chunk;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new UserError(`data file not found: ${path}`);
    if (code) throw new UserError(`cannot read ${path}: ${message}`);
    throw error;
  }
}

const isBlank = (byte: number) => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);
const isOpening = (byte: number) => byte === OPEN_LIST || byte === 0x7b;
const isClosing = (byte: number) => byte === 0x5d || byte === 0x7d;
