/** Typed access to the columns of a row; every complaint names the place and the column. */
import { UserError } from '../errors.ts';
import type { RawImage } from './sample.ts';

/** A row of a data file: column name -> value, binary as Uint8Array, null where the file has null. */
export type Row = Readonly<Record<string, unknown>>;

/** Text of a column; null counts as `whenNull` where that is given. */
export function textField(row: Row, column: string, place: string, whenNull?: string): string {
  const value = row[column];
  if (typeof value === 'string') return value;
  if ((value === null || value === undefined) && whenNull !== undefined) return whenNull;
  throw wrongType(place, column, 'text', value);
}

/** A list of texts; null counts as an empty list. */
export function textListField(row: Row, column: string, place: string): string[] {
  const value = row[column];
  if (value === null || value === undefined) return [];
  if (!Array.isArray(value) || value.some((item) => typeof item !== 'string')) {
    throw wrongType(place, column, 'a list of texts', value);
  }
  return value as string[];
}

/** An image column as Hugging Face stores it: a struct of `bytes` and `path`. Null when the row has no image. */
export function imageField(row: Row, column: string, place: string): RawImage | null {
  const value = row[column];
  if (value === null || value === undefined) return null;
  if (typeof value !== 'object' || Array.isArray(value))
    throw wrongType(place, column, 'a struct of bytes and path', value);
  const { bytes, path } = value as { bytes?: unknown; path?: unknown };
  if (bytes === null || bytes === undefined) {
    if (path === null || path === undefined || path === '') return null;
    throw new UserError(
      `${place}, column ${column}: the image is only named (${String(path)}); its bytes should be in the file`,
    );
  }
  if (!(bytes instanceof Uint8Array)) throw wrongType(place, `${column}.bytes`, 'binary', bytes);
  return { kind: 'encoded', bytes, name: typeof path === 'string' && path !== '' ? `${path} (${place})` : place };
}

function wrongType(place: string, column: string, expected: string, found: unknown): UserError {
  const kind = found === null || found === undefined ? 'nothing' : Array.isArray(found) ? 'a list' : typeof found;
  return new UserError(`${place}, column ${column}: should be ${expected}, but holds ${kind}`);
}
