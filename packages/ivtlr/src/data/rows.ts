/** Rows of data files whatever their format. */
import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { readJsonLines } from './json-lines.ts';
import { readParquet } from './parquet.ts';
import { type BadRows, ImageFile, type PlacedRow } from './row.ts';

/**
 * All rows of the files in order, bounded in memory: a Parquet row group or a line at a time. Images that a Parquet file only names are looked
 * for beside it.
 * @param onBad called with what is unreadable (a row group with a corrupt page, a line that is no JSON); without it that is an error.
 * @throws UserError naming file, row group or line, and column; a file that is missing or lacks a column is an error in any case.
 */
export async function* readRows(
  files: readonly string[],
  columns: readonly string[],
  onBad?: (bad: BadRows) => void,
): AsyncGenerator<PlacedRow> {
  let start = 0;
  for (const path of files) {
    let seen = 0;
    const count = (bad: BadRows) => {
      seen += bad.rows;
      onBad!(bad);
    };
    const rows = path.endsWith('.jsonl')
      ? readJsonLines(path, columns, onBad && count)
      : readParquet([path], columns, onBad && count);
    for await (const { row, place } of rows) {
      yield { row: withNamedImage(row, path), index: start + seen++, place };
    }
    start += seen;
  }
}

function withNamedImage(row: PlacedRow['row'], file: string): PlacedRow['row'] {
  const image = row.image as { bytes?: unknown; path?: unknown } | null | undefined;
  if (!image || image instanceof ImageFile || image.bytes || typeof image.path !== 'string') return row;
  const path = resolve(dirname(file), image.path);
  return existsSync(path) ? { ...row, image: new ImageFile(path) } : row;
}
