/** Rows of data files whatever their format. */
import { existsSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { UserError } from '../errors.ts';
import { readJsonRows } from './json-rows.ts';
import { readParquet } from './parquet.ts';
import { type BadRows, ImageFile, type PlacedRow, type Share } from './row.ts';

/** Which columns rows get. */
export interface WantedColumns {
  /** A file that lacks one is refused. */
  required: readonly string[];
  /** Null where a file lacks them. */
  optional?: readonly string[];
  /** Column -> its name in the files, where that is another. */
  names?: Readonly<Record<string, string>> | undefined;
}

/**
 * All rows of the files in order, bounded in memory: a Parquet row group or a line at a time. Images that a file only names are looked for beside
 * it; in JSON an image is a path relative to the file, or an object with `path` or base64 `bytes`.
 * @param onBad called with what is unreadable (a row group with a corrupt page, a line that is no JSON); without it that is an error.
 * @param share of the files' pieces; rows of others count in `index` all the same.
 * @throws UserError naming file, row group or line, and column; a file that is missing or lacks a column is an error in any case.
 */
export async function* readRows(
  files: readonly string[],
  wanted: WantedColumns,
  onBad?: (bad: BadRows) => void,
  share: Share = { index: 0, of: 1 },
): AsyncGenerator<PlacedRow> {
  const { required, names = {} } = wanted;
  // Wherever a question may have an image, a file may have a list of them in its place.
  const optional = [...(wanted.optional ?? []), ...(required.includes('image') ? ['images'] : [])];
  const known = [...required, ...optional];
  const unknown = Object.keys(names).filter((column) => !known.includes(column));
  if (unknown.length > 0) {
    throw new UserError(
      `there is no column ${unknown.join(', ')} to take from another; the columns are ${known.join(', ')}`,
    );
  }
  const nameOf = (column: string) => (Object.hasOwn(names, column) ? names[column]! : column);
  // A column that the user names must be there.
  const mapped = optional.filter((column) => Object.hasOwn(names, column)).map(nameOf);
  const needed = [...new Set([...required.map(nameOf), ...mapped])];
  const others = optional.map(nameOf).filter((name) => !needed.includes(name));
  let start = 0;
  let piece = 0;
  for (const path of files) {
    // A pipe could keep the program waiting for ever, and a device has no end.
    if (statSync(path, { throwIfNoEntry: false })?.isFile() === false) {
      throw new UserError(`${path} is a folder, a pipe or a device; a data file is needed`);
    }
    let seen = 0;
    const count = (bad: BadRows) => {
      seen += bad.rows;
      onBad!(bad);
    };
    const skip = (rows: number) => {
      const skipped = piece++ % share.of !== share.index;
      if (skipped) seen += rows;
      return skipped;
    };
    const rows = /\.jsonl?$/.test(path)
      ? readJsonRows(path, needed, onBad && count, others, skip)
      : readParquet([path], needed, onBad && count, others, skip);
    for await (const { row, place } of inTaskWords(rows, (name) => known.find((column) => nameOf(column) === name))) {
      const values = known.map((column) => {
        const value = row[nameOf(column)] ?? null;
        return [
          column,
          column === 'image' ? imageBeside(value, path) : column === 'images' ? imagesBeside(value, path) : value,
        ];
      });
      yield { row: Object.fromEntries(values), index: start + seen++, place };
    }
    start += seen;
  }
}

/** What an error advises to do about a column that is missing is said in the task's name of it, since that of the file may be another. */
async function* inTaskWords<T>(
  rows: AsyncIterable<T>,
  columnOf: (name: string) => string | undefined,
): AsyncGenerator<T> {
  try {
    yield* rows;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const column = columnOf(/--column (.+)=NAME/.exec(error.message)?.[1] ?? '');
    if (column === undefined) throw error;
    throw new UserError(error.message.replace(/--column .+=NAME/, `--column ${column}=NAME`));
  }
}

function imagesBeside(value: unknown, file: string): unknown {
  return Array.isArray(value) ? value.map((image) => imageBeside(image, file)) : value;
}

/** An image that is named, as a file beside `file`; anything else as it is. */
function imageBeside(value: unknown, file: string): unknown {
  const beside = (path: string) => new ImageFile(resolve(dirname(file), path));
  if (value === '') return null;
  if (typeof value === 'string') return beside(value);
  if (typeof value !== 'object' || value === null) return value;
  const { bytes, path } = value as { bytes?: unknown; path?: unknown };
  if (typeof bytes === 'string') return { bytes: new Uint8Array(Buffer.from(bytes, 'base64')), path: path ?? null };
  if (bytes || typeof path !== 'string' || path === '') return value;
  // In a Parquet file the name may be that of a file on the machine where it was written.
  return file.endsWith('.parquet') && !existsSync(resolve(dirname(file), path)) ? value : beside(path);
}
