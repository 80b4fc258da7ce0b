/**
 * The archive around a `torch.save` file, read as hostile input.
 *
 * torch.save writes a zip file whose entries are STORED (never compressed), so that an entry's bytes lie in the file as they are and can be
 * read at any position; files beyond 4 GiB carry zip64 records. Layout: PKWARE APPNOTE 4.3. Only the directory is read here, and it must
 * be whole: an entry that is compressed, encrypted, listed twice, overlaps another or reaches out of the file is an error.
 */
import fs from 'node:fs';
import { crc32 } from 'node:zlib';
import { CheckpointError } from './errors.ts';
import { quote } from './safetensors-header.ts';

/** 64 MiB list half a million tensors; a directory beyond that is damage or an attack. */
const MAX_DIRECTORY_BYTES = 2 ** 26;

const END = { signature: 0x06054b50, bytes: 22 };
const END64 = { signature: 0x06064b50, bytes: 56 };
const LOCATOR64 = { signature: 0x07064b50, bytes: 20 };
const CENTRAL = { signature: 0x02014b50, bytes: 46 };
const LOCAL = { signature: 0x04034b50, bytes: 30 };
const EXTRA64 = 0x0001;
const ENCRYPTED = 0x0001 | 0x0040 | 0x2000;

export interface ZipEntry {
  name: string;
  /** Bytes of data. */
  size: number;
  /** CRC-32 of the data; 0 where the writer recorded none (torch.serialization.set_crc32_options(False)). */
  crc: number;
  /** Where its local header starts in the file. */
  headerAt: number;
}

/** A file read at positions; every failure names it. */
export class PositionalFile {
  readonly path: string;
  readonly size: number;
  #fd: number | null;

  constructor(path: string) {
    this.path = path;
    try {
      if (!fs.statSync(path).isFile()) throw new CheckpointError(`${path}: not a file`);
      this.#fd = fs.openSync(path, 'r');
      this.size = fs.fstatSync(this.#fd).size;
    } catch (error) {
      if (error instanceof CheckpointError) throw error;
      throw new CheckpointError(`${path}: cannot be read (${(error as NodeJS.ErrnoException).code ?? error})`);
    }
  }

  /** Fills `into` from byte `position` on. (fs.readSync may return less than asked for.) */
  readInto(into: Uint8Array, position: number): Uint8Array {
    if (this.#fd === null) throw new CheckpointError(`${this.path}: read after close()`);
    for (let done = 0; done < into.length; ) {
      const count = fs.readSync(this.#fd, into, done, into.length - done, position + done);
      if (count === 0)
        throw new CheckpointError(`${this.path}: ended at byte ${position + done}; it was cut while in use`);
      done += count;
    }
    return into;
  }

  /** A view of `length` bytes from `position` on, which the caller has checked against the file's size. */
  read(position: number, length: number): DataView {
    return new DataView(this.readInto(new Uint8Array(length), position).buffer);
  }

  close(): void {
    if (this.#fd !== null) fs.closeSync(this.#fd);
    this.#fd = null;
  }
}

interface Directory {
  at: number;
  bytes: number;
  count: number;
}

/** All entries by name, checked so that their data neither overlaps nor leaves the file. Throws CheckpointError. */
export function readZipDirectory(file: PositionalFile): Map<string, ZipEntry> {
  const { at, bytes, count } = findDirectory(file);
  if (bytes > MAX_DIRECTORY_BYTES)
    throw new CheckpointError(
      `${file.path}: its zip directory has ${bytes} bytes, more than any checkpoint needs (${MAX_DIRECTORY_BYTES})`,
    );
  const view = file.read(at, bytes);
  const entries = new Map<string, ZipEntry>();
  let position = 0;
  for (let i = 0; i < count; i++) {
    const { entry, next } = parseEntry(view, position, at, file.path);
    if (entries.has(entry.name)) throw new CheckpointError(`${file.path}: entry ${quote(entry.name)} is listed twice`);
    entries.set(entry.name, entry);
    position = next;
  }
  if (position !== bytes)
    throw new CheckpointError(
      `${file.path}: the zip directory has ${bytes - position} bytes beyond its ${count} entries`,
    );
  checkOverlap(entries, file.path);
  return entries;
}

/** Where an entry's data starts: its local header repeats the name and may be padded to align the data. */
export function dataStart(file: PositionalFile, entry: ZipEntry): number {
  const where = `${file.path}: entry ${quote(entry.name)}`;
  const header = file.read(entry.headerAt, LOCAL.bytes);
  if (header.getUint32(0, true) !== LOCAL.signature)
    throw new CheckpointError(`${where} is not where the zip directory says`);
  const nameBytes = header.getUint16(26, true);
  const start = entry.headerAt + LOCAL.bytes + nameBytes + header.getUint16(28, true);
  if (start + entry.size > file.size) throw new CheckpointError(`${where} reaches out of the file`);
  const name = file.readInto(new Uint8Array(nameBytes), entry.headerAt + LOCAL.bytes);
  if (new TextDecoder().decode(name) !== entry.name)
    throw new CheckpointError(`${where} has another name at its place: ${quote(new TextDecoder().decode(name))}`);
  return start;
}

/** A small entry's data as a whole, its checksum compared. */
export function readEntry(file: PositionalFile, entry: ZipEntry, mostBytes: number): Uint8Array {
  const where = `${file.path}: entry ${quote(entry.name)}`;
  if (entry.size > mostBytes)
    throw new CheckpointError(`${where} has ${entry.size} bytes, more than any checkpoint needs (${mostBytes})`);
  const data = file.readInto(new Uint8Array(entry.size), dataStart(file, entry));
  if (entry.crc !== 0 && crc32(data) !== entry.crc)
    throw new CheckpointError(`${where} is damaged: its checksum is wrong`);
  return data;
}

function findDirectory(file: PositionalFile): Directory {
  const { path, size } = file;
  const none = () => new CheckpointError(`${path}: no zip file, or truncated: the directory at its end is missing`);
  if (size < END.bytes) throw none();
  // The end record is last; only a comment of at most 65535 bytes may follow, and torch.save writes none.
  const tail = file.read(size - Math.min(size, END.bytes + 0xffff), Math.min(size, END.bytes + 0xffff));
  let at = tail.byteLength - END.bytes;
  while (
    at >= 0 &&
    !(tail.getUint32(at, true) === END.signature && at + END.bytes + tail.getUint16(at + 20, true) === tail.byteLength)
  )
    at--;
  if (at < 0) throw none();
  const end = size - tail.byteLength + at;
  if (tail.getUint16(at + 4, true) !== 0 || tail.getUint16(at + 6, true) !== 0)
    throw new CheckpointError(`${path}: a zip file in several parts, which torch.save never writes`);
  const small: Directory = {
    count: tail.getUint16(at + 10, true),
    bytes: tail.getUint32(at + 12, true),
    at: tail.getUint32(at + 16, true),
  };
  const directory =
    small.count === 0xffff || small.bytes === 0xffffffff || small.at === 0xffffffff ? zip64(file, end) : small;
  if (directory.at + directory.bytes > end)
    throw new CheckpointError(`${path}: its zip directory reaches out of the file: it is truncated or damaged`);
  return directory;
}

function zip64(file: PositionalFile, end: number): Directory {
  const broken = () => new CheckpointError(`${file.path}: its zip64 directory is damaged`);
  const at = end - LOCATOR64.bytes;
  if (at < END64.bytes) throw broken();
  const locator = file.read(at, LOCATOR64.bytes);
  const recordAt = safe(locator.getBigUint64(8, true));
  if (locator.getUint32(0, true) !== LOCATOR64.signature || recordAt + END64.bytes > at) throw broken();
  const record = file.read(recordAt, END64.bytes);
  if (record.getUint32(0, true) !== END64.signature) throw broken();
  return {
    count: safe(record.getBigUint64(32, true)),
    bytes: safe(record.getBigUint64(40, true)),
    at: safe(record.getBigUint64(48, true)),
  };
}

function parseEntry(view: DataView, at: number, limit: number, path: string): { entry: ZipEntry; next: number } {
  const damaged = () => new CheckpointError(`${path}: its zip directory is damaged`);
  if (at + CENTRAL.bytes > view.byteLength || view.getUint32(at, true) !== CENTRAL.signature) throw damaged();
  const nameAt = at + CENTRAL.bytes;
  const extraAt = nameAt + view.getUint16(at + 28, true);
  const commentAt = extraAt + view.getUint16(at + 30, true);
  const next = commentAt + view.getUint16(at + 32, true);
  if (next > view.byteLength) throw damaged();
  const name = new TextDecoder().decode(new Uint8Array(view.buffer, nameAt, extraAt - nameAt));
  const where = `${path}: entry ${quote(name)}`;
  if ((view.getUint16(at + 8, true) & ENCRYPTED) !== 0) throw new CheckpointError(`${where} is encrypted`);
  const method = view.getUint16(at + 10, true);
  if (method !== 0)
    throw new CheckpointError(`${where} is compressed (method ${method}), which torch.save never does; it is refused`);
  const [size, packed, headerAt] = wideFields(view, extraAt, commentAt, [
    view.getUint32(at + 24, true),
    view.getUint32(at + 20, true),
    view.getUint32(at + 42, true),
  ]);
  if (size !== packed) throw new CheckpointError(`${where} has ${size} bytes but takes ${packed} in the file`);
  if (headerAt! + LOCAL.bytes + size! > limit)
    throw new CheckpointError(`${where} reaches out of the file: ${size} bytes from byte ${headerAt} on`);
  return { entry: { name, size: size!, crc: view.getUint32(at + 16, true), headerAt: headerAt! }, next };
}

/** Fields of all ones are continued in the zip64 extra field, in this order; one that is missing there stays too large and is refused. */
function wideFields(view: DataView, from: number, to: number, fields: number[]): number[] {
  for (let at = from; at + 4 <= to; at += 4 + view.getUint16(at + 2, true)) {
    if (view.getUint16(at, true) !== EXTRA64) continue;
    let value = at + 4;
    const end = Math.min(to, value + view.getUint16(at + 2, true));
    return fields.map((field) => {
      if (field !== 0xffffffff || value + 8 > end) return field;
      value += 8;
      return safe(view.getBigUint64(value - 8, true));
    });
  }
  return fields;
}

function checkOverlap(entries: ReadonlyMap<string, ZipEntry>, path: string): void {
  let free = 0;
  for (const { name, headerAt, size } of [...entries.values()].sort((a, b) => a.headerAt - b.headerAt)) {
    if (headerAt < free) throw new CheckpointError(`${path}: entry ${quote(name)} overlaps the one before it`);
    free = headerAt + LOCAL.bytes + size;
  }
}

/** A 64-bit number, or infinity where it is beyond what any file has, so that the size checks refuse it. */
function safe(value: bigint): number {
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.POSITIVE_INFINITY : Number(value);
}
