import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { UserError } from './errors.ts';

/** A file under construction: bytes go to `tempPath`, and only `commit` makes them visible under the final name. */
export interface AtomicFile {
  readonly path: string;
  readonly tempPath: string;
  /** Flushes the temporary file to disk and gives it its final name. The caller has closed its own handles before. */
  commit(): void;
  /** Removes the temporary file; the file under the final name, if any, stays as it was. */
  abort(): void;
}

/**
 * Makes a folder and those it stands in, unless they are there. Node's own recursive mkdir never ends where a parent can be neither found nor made,
 * as under /proc.
 * @throws UserError naming the folder that cannot be made
 */
export function makeFolder(path: string): void {
  const missing: string[] = [];
  try {
    for (let at = resolve(path); !isFolder(at); at = dirname(at)) missing.unshift(at);
    for (const folder of missing) makeOne(folder);
  } catch (error) {
    throw new UserError(`cannot make the folder ${path}: ${reason(error)}`);
  }
}

/** Another process may make it at the same moment. */
function makeOne(folder: string): void {
  try {
    if (!isFolder(folder)) mkdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || !isFolder(folder)) throw error;
  }
}

/** False when nothing is there. @throws Error when something else is */
function isFolder(path: string): boolean {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found && !found.isDirectory()) throw new Error(`${path} is a file`);
  return found !== undefined;
}

/**
 * Starts an atomic write. The temporary name lies in the same folder as `path`, since a rename is only atomic within one file system;
 * missing parent folders are made.
 */
export function beginAtomicWrite(path: string): AtomicFile {
  const folder = dirname(path);
  makeFolder(folder);
  const tempPath = join(folder, `.${randomBytes(6).toString('hex')}.tmp`);
  return {
    path,
    tempPath,
    commit() {
      try {
        syncPath(tempPath);
        renameSync(tempPath, path);
      } catch (error) {
        rmSync(tempPath, { force: true });
        throw new UserError(`cannot write ${path}: ${reason(error)}`);
      }
      syncPath(folder);
    },
    abort() {
      rmSync(tempPath, { force: true });
    },
  };
}

/**
 * Writes a whole file so that a reader, or a crash at any moment, sees either the old content or the new one, never a part.
 * @throws UserError when the folder cannot be written.
 */
export function writeFileAtomic(path: string, data: string | Uint8Array): void {
  const file = beginAtomicWrite(path);
  try {
    const handle = openSync(file.tempPath, 'wx');
    try {
      const bytes = typeof data === 'string' ? Buffer.from(data, 'utf8') : data;
      // One write call moves at most 2 GiB, so a single call is not enough for large files.
      for (let at = 0; at < bytes.length; ) at += writeSync(handle, bytes, at, Math.min(bytes.length - at, 1 << 30));
    } finally {
      closeSync(handle);
    }
  } catch (error) {
    file.abort();
    throw new UserError(`cannot write ${path}: ${reason(error)}`);
  }
  file.commit();
}

const DISPLACED = /^\.(.+)\.displaced$/;

/** Where a folder stands while the one that replaces it is put into its place. */
function displaced(folder: string): string {
  return join(dirname(folder), `.${basename(folder)}.displaced`);
}

/** The folder itself, or where it stands for the moment in which it is replaced: for readers, which change nothing. */
export function wholeFolder(folder: string): string {
  return !existsSync(folder) && existsSync(displaced(folder)) ? displaced(folder) : folder;
}

/** Where the next content of a folder is gathered; `clearLeftovers` removes it after a kill. */
export function partialFolder(folder: string): string {
  return `${folder}.partial`;
}

/**
 * Fills a folder under a temporary name, then gives it its final name in the place of an older one. A kill at any moment leaves the old folder
 * or the new one whole, and all that is in it on the disk: under its name, or for the moment between two renames the old one under another,
 * where `wholeFolder` finds it.
 * @throws UserError naming the folder when it cannot be written; nothing of the new one is then left
 */
export function writeFolderAtomic(folder: string, fill: (temporary: string) => void): void {
  const temporary = partialFolder(folder);
  restoreFolder(folder);
  try {
    rmSync(temporary, { recursive: true, force: true });
    makeFolder(temporary);
    fill(temporary);
    syncFolder(temporary);
    putInPlace(folder);
  } catch (error) {
    restoreFolder(folder);
    rmSync(temporary, { recursive: true, force: true });
    if (error instanceof UserError || (error as NodeJS.ErrnoException).code === undefined) throw error;
    throw new UserError(`cannot write the folder ${folder}: ${reason(error)}`);
  }
}

/** Gives the partial folder, whose files are on the disk already, its final name, as writeFolderAtomic does. */
export function putInPlace(folder: string): void {
  restoreFolder(folder);
  syncPath(partialFolder(folder));
  if (existsSync(folder)) renameSync(folder, displaced(folder));
  renameSync(partialFolder(folder), folder);
  syncPath(dirname(folder));
  rmSync(displaced(folder), { recursive: true, force: true });
}

/** Puts a folder back that a kill in `writeFolderAtomic` has left under its other name, and removes that where it is not needed any more. */
export function restoreFolder(folder: string): void {
  const old = displaced(folder);
  if (!existsSync(old)) return;
  if (existsSync(folder)) rmSync(old, { recursive: true, force: true });
  else renameSync(old, folder);
}

/** As restoreFolder, for everything in `parent`; what was only half-written is removed. For a writer that has `parent` to itself. */
export function clearLeftovers(parent: string): void {
  if (!existsSync(parent)) return;
  for (const entry of readdirSync(parent)) {
    if (entry.endsWith('.partial')) rmSync(join(parent, entry), { recursive: true, force: true });
    const name = DISPLACED.exec(entry)?.[1];
    if (name !== undefined) restoreFolder(join(parent, name));
  }
}

/** Brings everything below a folder to the disk. */
function syncFolder(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) syncFolder(path);
    else if (entry.isFile()) syncPath(path);
  }
  syncPath(folder);
}

/** Whether the folder lists it; unlike for existsSync, a link to nothing (as in a damaged cache) is there, and reading it says what is wrong. */
export function isListed(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** Far more than an image or a text takes that is held whole. */
const MAX_WHOLE_FILE_BYTES = 512 * 2 ** 20;

/**
 * Reads a whole file. Pipes and devices, which may never end, are not read.
 * @param noun what the file is, such as `an image file`, for the message about one that is too large
 * @param refused makes the error about what is `a folder` or `a pipe or a device`
 * @throws UserError when it is no file, or too large; else what the file system says
 */
export function readWholeFile(
  path: string,
  noun: string,
  refused: (kind: string) => UserError,
): Uint8Array<ArrayBuffer> {
  // Without O_NONBLOCK a pipe that nobody writes to would wait here for ever.
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) throw refused(stat.isDirectory() ? 'a folder' : 'a pipe or a device');
    if (stat.size > MAX_WHOLE_FILE_BYTES) {
      const [has, most] = [stat.size, MAX_WHOLE_FILE_BYTES].map((bytes) => Math.ceil(bytes / 2 ** 20));
      throw new UserError(`${path} has ${has} MiB, over the ${most} MiB that ${noun} may have`);
    }
    // Not more than the size it had: files below /proc say 0 and may be endless.
    const bytes = new Uint8Array(stat.size);
    let read = 0;
    while (read < bytes.length) {
      const got = readSync(file, bytes, read, bytes.length - read, null);
      if (got === 0) break;
      read += got;
    }
    return bytes.subarray(0, read);
  } finally {
    closeSync(file);
  }
}

/**
 * Reads a file that is no image, such as a configuration.
 * @param what names the file's part in error messages, e.g. `tokenizer`.
 * @throws UserError when the file is missing, too large or unreadable
 */
export function readBytes(path: string, what = 'file'): Uint8Array<ArrayBuffer> {
  try {
    const kinds = 'a folder, a pipe or a device';
    return readWholeFile(path, `a ${what}`, () => new UserError(`${what} should be a file, but ${path} is ${kinds}`));
  } catch (error) {
    if (error instanceof UserError) throw error;
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    if (missing && isListed(path)) throw new UserError(`${what} ${path} is a link to a file that is not there`);
    throw new UserError(missing ? `${what} not found: ${path}` : `cannot read ${what} ${path}: ${reason(error)}`);
  }
}

/** As `readBytes`, of a UTF-8 text. */
export function readText(path: string, what = 'file'): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(readBytes(path, what));
}

/**
 * Reads and parses a JSON file. The caller checks the shape.
 * @throws UserError when the file is missing or is not JSON.
 */
export function readJson(path: string, what = 'file'): unknown {
  const text = readText(path, what);
  try {
    // A byte order mark is legal for editors but not for JSON.parse.
    return JSON.parse(text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);
  } catch (error) {
    throw new UserError(`${what} ${path} is not valid JSON: ${reason(error)}`);
  }
}

function syncPath(path: string): void {
  const handle = openSync(path, 'r');
  try {
    fsyncSync(handle);
  } catch (error) {
    // Some file systems refuse to sync a folder; the rename itself has then still happened.
    if (!['EINVAL', 'EPERM', 'ENOTSUP'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  } finally {
    closeSync(handle);
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
