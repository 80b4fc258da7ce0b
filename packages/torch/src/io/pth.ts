/**
 * Reading the zip files `torch.save` writes (.pth, .pt, pytorch_model.bin) without running anything: the pickle inside goes through
 * pth-pickle.ts. Tensors are read piece by piece from their place in the file, so that files beyond memory can be gone through.
 */
import { crc32 } from 'node:zlib';
import { noGrad } from '../core/autograd.ts';
import { empty, shareBytes } from '../core/creation.ts';
import { type DType, elementSize } from '../core/dtype.ts';
import { scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';
import { CheckpointError } from './errors.ts';
import { MAX_PICKLE_BYTES } from './pth-pickle.ts';
import { parseStateDict, type StateDict, type StoredTensor } from './pth-state-dict.ts';
import { dataStart, PositionalFile, readEntry, readZipDirectory, type ZipEntry } from './pth-zip.ts';
import { type ReadOptions, requireShape, type TensorFile, type TensorInfo } from './safetensors.ts';
import { quote } from './safetensors-header.ts';

export interface PthFile extends TensorFile {
  /** Entries of the state dict that are no tensors (an epoch number, an optimiser's state), with what they are. */
  readonly skipped: readonly { name: string; kind: string }[];
}

/**
 * Opens a flat state dict and validates its archive, its pickle and every tensor's place. Views with other
 * strides are read right and come back contiguous. Checksums are compared where the writer recorded them.
 * Throws CheckpointError naming the file and, where there is one, the tensor.
 */
export function openPth(path: string): PthFile {
  return new ZippedStateDict(path);
}

/** Small enough to stay in a cache between the read and the conversion. */
const PIECE_BYTES = 2 ** 20;

class ZippedStateDict implements PthFile {
  readonly metadata: Readonly<Record<string, string>> = {};
  readonly skipped: StateDict['skipped'];
  readonly #file: PositionalFile;
  readonly #tensors: ReadonlyMap<string, StoredTensor>;
  /** Where each entry's data starts. */
  readonly #starts = new Map<ZipEntry, number>();
  /** Entries whose checksum was compared. */
  readonly #verified = new Set<ZipEntry>();
  readonly #piece = new Uint8Array(PIECE_BYTES);

  constructor(path: string) {
    this.#file = new PositionalFile(path);
    try {
      refuseOtherFormats(this.#file);
      const { tensors, skipped } = readStateDict(this.#file);
      const ordered = [...tensors].sort(([, a], [, b]) => a.entry.headerAt - b.entry.headerAt || a.offset - b.offset);
      this.#tensors = new Map(ordered);
      for (const { entry } of tensors.values())
        if (!this.#starts.has(entry)) this.#starts.set(entry, dataStart(this.#file, entry));
      this.skipped = skipped;
    } catch (error) {
      this.#file.close();
      throw error;
    }
  }

  names(): string[] {
    return [...this.#tensors.keys()];
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  info(name: string): TensorInfo {
    const { dtype, shape } = this.#tensor(name);
    return { dtype, shape };
  }

  read(name: string, { dtype, device = 'cpu' }: ReadOptions = {}): Tensor {
    const stored = this.#tensor(name);
    const { shape, strides, offset } = stored;
    const wanted = dtype ?? stored.dtype;
    return scope(() =>
      noGrad(() => {
        const count = shape.reduce((product, size) => product * size, 1);
        if (isContiguous(shape, strides)) {
          const result = empty(shape, { dtype: wanted, device });
          this.#fill(name, stored, offset, count, result.view([-1]));
          return result;
        }
        const span = 1 + shape.reduce((last, size, i) => last + (size - 1) * strides[i]!, 0);
        const memory = empty([span], { dtype: stored.dtype });
        this.#fill(name, stored, offset, span, memory);
        const result = empty(shape, { dtype: wanted, device });
        result.copy_(ops.as_strided(memory, shape, strides, 0));
        return result;
      }),
    );
  }

  readInto(name: string, tensor: Tensor): void {
    const { shape } = this.#tensor(name);
    requireShape(this.#file.path, name, shape, tensor);
    scope(() => noGrad(() => void tensor.copy_(this.read(name))));
  }

  close(): void {
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #tensor(name: string): StoredTensor & { dtype: DType } {
    const stored = this.#tensors.get(name);
    if (!stored) throw new CheckpointError(`${this.#file.path}: there is no tensor ${quote(name)} in it`);
    const { dtype, format } = stored;
    if (!dtype)
      throw new CheckpointError(
        `${this.#file.path}: tensor ${quote(name)} has dtype ${format}, which is not supported`,
      );
    return stored as StoredTensor & { dtype: DType };
  }

  /** Copies `count` stored values from value `first` on into a flat tensor of any dtype and device. */
  #fill(name: string, stored: StoredTensor & { dtype: DType }, first: number, count: number, into: Tensor): void {
    const { entry, dtype } = stored;
    const size = elementSize(dtype);
    const whole = first === 0 && count * size === entry.size;
    if (!whole) this.#verify(name, entry);
    const begin = this.#starts.get(entry)! + first * size;
    let checksum = 0;
    for (let at = 0; at < count * size; at += PIECE_BYTES) {
      const piece = this.#file.readInto(this.#piece.subarray(0, Math.min(PIECE_BYTES, count * size - at)), begin + at);
      checksum = crc32(piece, checksum);
      scope(() => {
        const values = shareBytes(piece, dtype === 'bool' ? 'uint8' : dtype, [piece.length / size]);
        // A bool tensor whose bytes are neither 0 nor 1 is undefined behaviour in libtorch's kernels.
        into.narrow(0, at / size, piece.length / size).copy_(dtype === 'bool' ? values.ne(0) : values);
      });
    }
    if (whole) this.#compare(name, entry, checksum);
  }

  /** Goes through an entry's bytes once before a part of it is used. */
  #verify(name: string, entry: ZipEntry): void {
    if (entry.crc === 0 || this.#verified.has(entry)) return;
    const begin = this.#starts.get(entry)!;
    let checksum = 0;
    for (let at = 0; at < entry.size; at += PIECE_BYTES)
      checksum = crc32(
        this.#file.readInto(this.#piece.subarray(0, Math.min(PIECE_BYTES, entry.size - at)), begin + at),
        checksum,
      );
    this.#compare(name, entry, checksum);
  }

  #compare(name: string, entry: ZipEntry, checksum: number): void {
    if (entry.crc !== 0 && checksum !== entry.crc)
      throw new CheckpointError(
        `${this.#file.path}: tensor ${quote(name)} is damaged: the checksum of its bytes is wrong`,
      );
    this.#verified.add(entry);
  }
}

/** Finds data.pkl in the one folder of the archive, and reads it. */
function readStateDict(file: PositionalFile): StateDict {
  const entries = readZipDirectory(file);
  const pickles = [...entries.values()].filter(({ name }) => /^[^/]+\/data\.pkl$/.test(name));
  const [pickle] = pickles;
  if (!pickle || pickles.length > 1)
    throw new CheckpointError(
      `${file.path}: a zip file, but not one of torch.save: it has ${pickle ? 'several' : 'no'} data.pkl`,
    );
  const folder = pickle.name.slice(0, -'data.pkl'.length);
  if (entries.has(`${folder}constants.pkl`))
    throw new CheckpointError(`${file.path}: a TorchScript program, not a state dict; save model.state_dict() instead`);
  const byteOrder = entries.get(`${folder}byteorder`);
  const order = byteOrder ? new TextDecoder().decode(readEntry(file, byteOrder, 16)) : 'little';
  if (order !== 'little')
    throw new CheckpointError(`${file.path}: its byte order is ${quote(order)}; only "little" is read`);
  const bytes = readEntry(file, pickle, MAX_PICKLE_BYTES);
  return parseStateDict(bytes, (key) => entries.get(`${folder}data/${key}`), file.path);
}

function refuseOtherFormats(file: PositionalFile): void {
  const start = new Uint8Array(file.read(0, Math.min(16, file.size)).buffer);
  // torch.save before 1.6 wrote bare pickles that begin with this number.
  const magic = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
  if (start[0] === 0x80 && magic.every((byte, i) => start[i + 2] === byte))
    throw new CheckpointError(
      `${file.path}: in torch.save's old format from before torch 1.6; load it and save it again with a current torch`,
    );
  if (start[0] === 0x80) throw new CheckpointError(`${file.path}: a bare pickle, not a file of torch.save`);
}

/** Whether the values lie in row-major order without gaps; sizes of 1 have no say. */
function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] === 0) return true;
    if (shape[i] !== 1 && strides[i] !== expected) return false;
    expected *= shape[i]!;
  }
  return true;
}
