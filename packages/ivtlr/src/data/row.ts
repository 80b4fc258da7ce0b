/** Typed access to the columns of a row; every complaint names the place and the column. */
import { statSync } from 'node:fs';
import { UserError } from '../errors.ts';
import { MAX_CHOICES } from '../text/prompt.ts';
import { readImageFile } from '../vision/image-file.ts';
import type { RawImage } from './sample.ts';

/** A row of a data file: column name -> value, binary as Uint8Array, null where the file has null. */
export type Row = Readonly<Record<string, unknown>>;

/** A row and where it stands. */
export interface PlacedRow {
  row: Row;
  /** 0-based, counted over all files in order. */
  index: number;
  /** File and row, for error messages. */
  place: string;
}

/** Rows that could not be used. */
export interface BadRows {
  place: string;
  message: string;
  rows: number;
}

/** Of several readers of the same files: one takes every `of`-th piece, beginning with piece `index`. A piece is a row group of Parquet, or a row of JSON. */
export interface Share {
  index: number;
  of: number;
}

/** Asked once for each piece of a file, of so many rows: whether it is left to others. */
export type Skip = (rows: number) => boolean;

/** An image in a file of its own; its bytes are read when they are looked at. */
export class ImageFile {
  constructor(readonly path: string) {}
}

/** @param place a file, or a row of it */
export function noColumn(place: string, missing: readonly string[], present: readonly string[]): UserError {
  return new UserError(
    `${place} has no column ${missing.join(', ')}; its columns are ${present.join(', ')} (one under another name is taken with --column ${missing[0]}=NAME, in a recipe with data.columns)`,
  );
}

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

/** The texts of a question's choices; null counts as none. */
export function choicesField(row: Row, column: string, place: string): string[] {
  const choices = textListField(row, column, place);
  if (choices.length <= MAX_CHOICES) return choices;
  throw new UserError(
    `${place}, column ${column}: ${choices.length} choices, but only ${MAX_CHOICES} have a letter, A to Z`,
  );
}

/** A whole number, stored in any integer type. */
export function integerField(row: Row, column: string, place: string): number {
  const value = row[column];
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (typeof number === 'number' && Number.isSafeInteger(number)) return number;
  throw wrongType(place, column, 'a whole number', value);
}

/** An image column as Hugging Face stores it: a struct of `bytes` and `path`; or one that was read already. Null when the row has no image. */
export function imageField(row: Row, column: string, place: string): RawImage | null {
  return imageOf(row[column], column, place);
}

/**
 * The images of a question: those of the list `images`, where it has one, else the one of `image`. Null when the row has neither; an empty list is a
 * question without image.
 */
export function imagesOfRow(row: Row, place: string): RawImage[] | null {
  const images = row.images ?? null;
  if (images === null) {
    const image = imageField(row, 'image', place);
    return image && [image];
  }
  if (!Array.isArray(images)) throw wrongType(place, 'images', 'a list of images', images);
  // Lists of a damaged file may have holes, which map() would pass over.
  return Array.from(images, (value, index) => {
    const image = imageOf(value, `images[${index}]`, place);
    if (!image) throw wrongType(place, `images[${index}]`, 'an image', null);
    return image;
  });
}

/** Columns that are not there; `images` stands for `image` too. */
export function missingColumns(wanted: readonly string[], present: readonly string[]): string[] {
  return wanted.filter((column) => !present.includes(column) && !(column === 'image' && present.includes('images')));
}

function imageOf(value: unknown, column: string, place: string): RawImage | null {
  if (isRawImage(value)) return value;
  if (value === null || value === undefined) return null;
  if (value instanceof ImageFile) return fileImage(value.path, column, place);
  if (typeof value !== 'object' || Array.isArray(value))
    throw wrongType(place, column, 'a struct of bytes and path', value);
  const { bytes, path } = value as { bytes?: unknown; path?: unknown };
  if (bytes === null || bytes === undefined) {
    if (path === null || path === undefined || path === '') return null;
    throw new UserError(
      `${place}, column ${column}: the image is only named (${shorten(String(path))}); its bytes should be in the file, or the image beside it`,
    );
  }
  if (!(bytes instanceof Uint8Array)) throw wrongType(place, `${column}.bytes`, 'binary', bytes);
  return { kind: 'encoded', bytes, name: typeof path === 'string' && path !== '' ? `${path} (${place})` : place };
}

function isRawImage(value: unknown): value is RawImage {
  return typeof value === 'object' && value !== null && ['encoded', 'rgb'].includes((value as RawImage).kind);
}

function fileImage(path: string, column: string, place: string): RawImage {
  const where = `${place}, column ${column}`;
  const kind = kindOfFile(path);
  if (kind === null) throw new UserError(`${where}: there is no image ${shorten(path)}`);
  if (kind === 'other') {
    throw new UserError(`${where}: ${shorten(path)} is a folder, a pipe or a device; an image file is needed`);
  }
  return {
    kind: 'encoded',
    name: `${path} (${place})`,
    get bytes() {
      try {
        return readImageFile(path);
      } catch (error) {
        throw error instanceof UserError ? new UserError(`${where}: ${error.message}`) : error;
      }
    },
  };
}

/** Null too for what cannot be a path: one with a NUL, or a longer one than the system takes. */
function kindOfFile(path: string): 'file' | 'other' | null {
  try {
    return statSync(path).isFile() ? 'file' : 'other';
  } catch {
    return null;
  }
}

/** Text from a data file, short enough for a message. */
export function shorten(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}..` : text;
}

function wrongType(place: string, column: string, expected: string, found: unknown): UserError {
  const kind = found === null || found === undefined ? 'nothing' : Array.isArray(found) ? 'a list' : typeof found;
  return new UserError(`${place}, column ${column}: should be ${expected}, but holds ${kind}`);
}
