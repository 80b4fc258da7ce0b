/** Writing safetensors files: atomic, byte for byte the same for the same tensors, one piece of one tensor in memory at a time. */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { dirname } from 'node:path';
import { noGrad } from '../core/autograd.ts';
import { shareBytes } from '../core/creation.ts';
import { type DType, elementSize } from '../core/dtype.ts';
import { scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import { CheckpointError } from './errors.ts';
import { type HostTensor, isHostTensor } from './host-tensor.ts';
import { FORMAT_NAMES, quote } from './safetensors-header.ts';

/** Small enough to stay in a cache between the copy out of libtorch and the write. */
const PIECE_BYTES = 2 ** 20;

const ORDER: readonly DType[] = [
  'int64',
  'float64',
  'float32',
  'int32',
  'bfloat16',
  'float16',
  'int16',
  'int8',
  'uint8',
  'bool',
];

/** What a file takes: a tensor of libtorch, or its copy in host memory. */
export type StoredTensor = Tensor | HostTensor;

/**
 * Writes tensors (any dtype, shape, device; views are made contiguous) so that Python's safetensors reads them.
 *
 * The bytes are those of the reference writer (which, unlike this one, does not order several metadata entries): dtypes from wide to
 * narrow, then names, the data starting at a multiple of 8 bytes; so every tensor is aligned and equal input gives equal bytes.
 * Written under a temporary name, synced, then renamed: a crash leaves the old file or the new one.
 */
export function saveSafetensors(
  path: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  metadata?: Readonly<Record<string, string>>,
): void {
  const ordered = inOrder(tensors);
  const header = encodeHeader(path, ordered, metadata);
  const temporary = `${path}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`;
  const fd = fs.openSync(temporary, 'wx');
  try {
    try {
      const piece = new Uint8Array(PIECE_BYTES);
      writeAll(fd, header);
      for (const [, tensor] of ordered) writeTensor(fd, tensor, piece);
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
    fs.renameSync(temporary, path);
  } catch (error) {
    fs.rmSync(temporary, { force: true });
    throw error;
  }
  syncFolder(dirname(path));
}

/**
 * The bytes of the file that saveSafetensors would write, one part after the other: the header, then each tensor's own bytes, not copied.
 * @param path for error messages
 */
export function safetensorsParts(
  path: string,
  tensors: ReadonlyMap<string, HostTensor>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array[] {
  const ordered = inOrder(tensors);
  return [encodeHeader(path, ordered, metadata), ...ordered.map(([, { bytes }]) => bytes)];
}

function inOrder<T extends StoredTensor>(tensors: ReadonlyMap<string, T>): [string, T][] {
  return [...tensors].sort(([a, x], [b, y]) => ORDER.indexOf(x.dtype) - ORDER.indexOf(y.dtype) || (a < b ? -1 : 1));
}

function encodeHeader(
  path: string,
  ordered: [string, StoredTensor][],
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const entries: [string, unknown][] = metadata && Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : [];
  let position = 0;
  for (const [name, { dtype, shape }] of ordered) {
    if (name === '__metadata__') throw new CheckpointError(`${path}: a tensor cannot be named "__metadata__"`);
    if (!(dtype in FORMAT_NAMES))
      throw new CheckpointError(`${path}: tensor ${quote(name)} has dtype ${dtype}, which safetensors cannot hold`);
    const end = position + shape.reduce((product, size) => product * size, elementSize(dtype));
    entries.push([name, { dtype: FORMAT_NAMES[dtype], shape, data_offsets: [position, end] }]);
    position = end;
  }
  // Built by hand: an object would move integer-like names ("0") to the front and lose "__proto__".
  const text = `{${entries.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join(',')}}`;
  const json = new TextEncoder().encode(text);
  const length = Math.ceil(json.length / 8) * 8;
  const header = new Uint8Array(8 + length).fill(0x20, 8);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, 8);
  return header;
}

function writeTensor(fd: number, tensor: StoredTensor, piece: Uint8Array): void {
  if (isHostTensor(tensor)) {
    writeAll(fd, tensor.bytes);
    return;
  }
  const { dtype, numel } = tensor;
  const size = elementSize(dtype);
  scope(() =>
    noGrad(() => {
      const flat = tensor.reshape([-1]);
      for (let from = 0; from < numel; from += PIECE_BYTES / size) {
        const count = Math.min(PIECE_BYTES / size, numel - from);
        const bytes = piece.subarray(0, count * size);
        scope(() => void shareBytes(bytes, dtype, [count]).copy_(flat.narrow(0, from, count)));
        writeAll(fd, bytes);
      }
    }),
  );
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) {
    done += fs.writeSync(fd, bytes, done, Math.min(bytes.length - done, 2 ** 30));
  }
}

/** The rename itself is durable only once its folder is synced; some file systems refuse, which loses nothing but that guarantee. */
function syncFolder(folder: string): void {
  try {
    const fd = fs.openSync(folder, 'r');
    try {
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
  } catch {
    // this file system cannot sync a folder
  }
}
