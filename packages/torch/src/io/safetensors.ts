/** Reading safetensors files: one lazily paged private mapping of the file, tensors copied or converted out of it one at a time. */
import fs from 'node:fs';
import { empty } from '../core/creation.ts';
import { type Device, type DType, elementSize } from '../core/dtype.ts';
import { keep, scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';
import { CheckpointError } from './errors.ts';
import { type HeaderEntry, headerLength, parseHeader, quote } from './safetensors-header.ts';

export interface TensorInfo {
  dtype: DType;
  shape: readonly number[];
}

export interface ReadOptions {
  /** Convert to this dtype on the way; default: as stored. */
  dtype?: DType;
  /** Default 'cpu'. */
  device?: Device;
  /**
   * Return a view of the mapped file where nothing needs converting: no copy, paged in on first use, private (writes never reach the file).
   * The file must not be truncated or rewritten in place while such a tensor lives; replacing it by rename is safe.
   */
  share?: boolean;
}

/** Named tensors in files: one safetensors file or a sharded checkpoint. */
export interface TensorFile {
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of the data. */
  names(): string[];
  has(name: string): boolean;
  /** Throws CheckpointError for an unknown name or a dtype that tensors here cannot have. */
  info(name: string): TensorInfo;
  read(name: string, options?: ReadOptions): Tensor;
  /** Frees the mapping; tensors read before, shared ones too, stay valid. */
  close(): void;
  [Symbol.dispose](): void;
}

/** Opens a safetensors file and validates its whole header. Throws CheckpointError naming the file and, where there is one, the tensor. */
export function openSafetensors(path: string): TensorFile {
  return new SafetensorsFile(path);
}

class SafetensorsFile implements TensorFile {
  readonly metadata: Readonly<Record<string, string>>;
  readonly #path: string;
  readonly #bytes: number;
  readonly #entries: ReadonlyMap<string, HeaderEntry>;
  #mapping: Tensor | null = null;
  #closed = false;

  constructor(path: string) {
    this.#path = path;
    const { bytes, header } = readHeader(path);
    this.#bytes = bytes;
    this.metadata = header.metadata;
    this.#entries = new Map([...header.entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end));
  }

  names(): string[] {
    return [...this.#entries.keys()];
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  info(name: string): TensorInfo {
    const { dtype, shape } = this.#entry(name);
    return { dtype, shape };
  }

  read(name: string, { dtype, device = 'cpu', share = false }: ReadOptions = {}): Tensor {
    const entry = this.#entry(name);
    if (entry.begin === entry.end) return empty(entry.shape, { dtype: dtype ?? entry.dtype, device });
    const mapping = this.#map();
    return scope(() => {
      let bytes = mapping.narrow(0, entry.begin, entry.end - entry.begin);
      // Files of old writers start their data at odd offsets; a typed view needs an aligned start.
      const aligned = entry.begin % elementSize(entry.dtype) === 0;
      if (!aligned) bytes = bytes.clone();
      const stored = viewAs(bytes, entry.dtype).view(entry.shape);
      const moved = device === 'cpu' ? stored : stored.to(device);
      if (dtype !== undefined && dtype !== entry.dtype) return moved.to(dtype);
      const owned = device !== 'cpu' || !aligned || entry.dtype === 'bool';
      return share || owned ? moved : moved.clone();
    });
  }

  close(): void {
    this.#closed = true;
    this.#mapping?.dispose();
    this.#mapping = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #entry(name: string): HeaderEntry & { dtype: DType } {
    const entry = this.#entries.get(name);
    if (!entry) throw new CheckpointError(`${this.#path}: there is no tensor ${quote(name)} in it`);
    const { dtype, format } = entry;
    if (!dtype)
      throw new CheckpointError(`${this.#path}: tensor ${quote(name)} has dtype ${format}, which is not supported`);
    return { ...entry, dtype };
  }

  #map(): Tensor {
    if (this.#closed) throw new CheckpointError(`${this.#path}: read after close()`);
    if (!this.#mapping) {
      const bytes = statFile(this.#path).size;
      if (bytes !== this.#bytes)
        throw new CheckpointError(
          `${this.#path}: changed since it was opened (${this.#bytes} bytes then, ${bytes} now)`,
        );
      this.#mapping = keep(ops.from_file(this.#path, false, this.#bytes, 'uint8'));
    }
    return this.#mapping;
  }
}

function viewAs(bytes: Tensor, dtype: DType): Tensor {
  if (dtype === 'uint8') return bytes;
  // A bool tensor whose bytes are neither 0 nor 1 is undefined behaviour in libtorch's kernels.
  if (dtype === 'bool') return bytes.ne(0);
  return bytes.viewAs(dtype);
}

function readHeader(path: string) {
  const stat = statFile(path);
  if (!stat.isFile()) throw new CheckpointError(`${path}: not a file`);
  const fd = fs.openSync(path, 'r');
  try {
    const prefix = readExactly(fd, 0, Math.min(8, stat.size), path);
    const length = headerLength(prefix, stat.size, path);
    return { bytes: stat.size, header: parseHeader(readExactly(fd, 8, length, path), stat.size, path) };
  } finally {
    fs.closeSync(fd);
  }
}

function statFile(path: string): fs.Stats {
  try {
    return fs.statSync(path);
  } catch (error) {
    throw new CheckpointError(`${path}: cannot be read (${(error as NodeJS.ErrnoException).code ?? error})`);
  }
}

function readExactly(fd: number, position: number, length: number, path: string): Uint8Array {
  const buffer = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const count = fs.readSync(fd, buffer, done, length - done, position + done);
    if (count === 0) throw new CheckpointError(`${path}: ended while its header was read`);
    done += count;
  }
  return buffer;
}
