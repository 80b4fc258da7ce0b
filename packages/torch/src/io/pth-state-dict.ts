/** What the pickle of a state dict says: named views of stored memory, every one of them checked before any byte of a tensor is read. */
import { type DType, elementSize } from '../core/dtype.ts';
import { CheckpointError } from './errors.ts';
import { type Resolver, unpickle } from './pth-pickle.ts';
import { kindOf, PickleDict, PickleGlobal, PickleObject, PickleTuple, type Value } from './pth-values.ts';
import type { ZipEntry } from './pth-zip.ts';
import { MAX_DIMENSIONS, quote } from './safetensors-header.ts';

/** torch's storage classes (torch/storage.py). Those without a dtype here can be listed but not read. */
const STORAGES: Readonly<Record<string, { format: string; dtype: DType | null; bytes: number }>> = {
  'torch.FloatStorage': native('float32'),
  'torch.DoubleStorage': native('float64'),
  'torch.HalfStorage': native('float16'),
  'torch.BFloat16Storage': native('bfloat16'),
  'torch.LongStorage': native('int64'),
  'torch.IntStorage': native('int32'),
  'torch.ShortStorage': native('int16'),
  'torch.CharStorage': native('int8'),
  'torch.ByteStorage': native('uint8'),
  'torch.BoolStorage': native('bool'),
  'torch.ComplexFloatStorage': { format: 'complex64', dtype: null, bytes: 8 },
  'torch.ComplexDoubleStorage': { format: 'complex128', dtype: null, bytes: 16 },
};

function native(dtype: DType): { format: string; dtype: DType; bytes: number } {
  return { format: dtype, dtype, bytes: elementSize(dtype) };
}

const ORDERED_DICT = 'collections.OrderedDict';
const REBUILD_TENSOR = 'torch._utils._rebuild_tensor_v2';
const REBUILD_PARAMETER = 'torch._utils._rebuild_parameter';

interface StoredMemory {
  key: string;
  type: string;
  /** Elements. */
  count: number;
}

/** One tensor: `offset`, `shape` and `strides` count elements of the zip entry that holds its memory. */
export interface StoredTensor {
  entry: ZipEntry;
  format: string;
  dtype: DType | null;
  itemBytes: number;
  offset: number;
  shape: readonly number[];
  strides: readonly number[];
}

export interface StateDict {
  tensors: Map<string, StoredTensor>;
  /** Entries that are no tensors, with what they are. */
  skipped: { name: string; kind: string }[];
}

interface RawTensor {
  memory: StoredMemory;
  offset: Value;
  shape: Value;
  strides: Value;
}

/**
 * Reads data.pkl.
 * @param storage gives the zip entry of a storage key, undefined when there is none
 * @param path of the file, for messages
 */
export function parseStateDict(
  pickle: Uint8Array,
  storage: (key: string) => ZipEntry | undefined,
  path: string,
): StateDict {
  const root = unpickle(pickle, resolver(path), `${path}: data.pkl`);
  if (!(root instanceof PickleDict))
    throw new CheckpointError(`${path}: holds ${kindOf(root)}, not a state dict (a dictionary from names to tensors)`);
  const state: StateDict = { tensors: new Map(), skipped: [] };
  for (const [key, value] of root.entries) {
    if (typeof key === 'string' && value instanceof PickleObject && 'memory' in (value.value as object))
      state.tensors.set(key, check(value.value as RawTensor, storage, `${path}: tensor ${quote(key)}`));
    else state.skipped.push({ name: String(key), kind: kindOf(value) });
  }
  const nested = state.skipped.find(({ kind }) => kind === 'a dictionary');
  if (state.tensors.size === 0 && nested)
    throw new CheckpointError(
      `${path}: has no tensors at its top level, but a dictionary ${quote(nested.name)}; save that one by itself`,
    );
  return state;
}

function resolver(path: string): Resolver {
  const refuse = (name: string, why: string): never => {
    throw new CheckpointError(`${path}: data.pkl ${why} ${quote(name)}; it is refused and nothing was run`);
  };
  return {
    allows: (name) =>
      name === ORDERED_DICT || name === REBUILD_TENSOR || name === REBUILD_PARAMETER || Object.hasOwn(STORAGES, name),
    call(name, args) {
      if (name === ORDERED_DICT) return args.length === 0 ? new PickleDict() : refuse(name, 'gives arguments to');
      if (name === REBUILD_TENSOR) return rebuildTensor(args) ?? refuse(name, 'gives wrong arguments to');
      if (name === REBUILD_PARAMETER) return rebuildParameter(args) ?? refuse(name, 'gives wrong arguments to');
      return refuse(name, 'calls');
    },
    persistent(id) {
      const [tag, type, key, location, count] = id instanceof PickleTuple ? id.items : [];
      if (
        tag !== 'storage' ||
        !(type instanceof PickleGlobal) ||
        !Object.hasOwn(STORAGES, type.name) ||
        typeof key !== 'string' ||
        typeof location !== 'string' ||
        !isCount(count)
      )
        throw new CheckpointError(
          `${path}: data.pkl refers to memory that is not described as torch.save describes it`,
        );
      return new PickleObject<StoredMemory>({ key, type: type.name, count });
    },
  };
}

/** (storage, offset, size, stride, requires_grad, backward_hooks[, metadata]); torch/_utils.py */
function rebuildTensor(args: readonly Value[]): PickleObject<RawTensor> | null {
  const [memory, offset, shape, strides, grad, hooks, metadata] = args;
  if (args.length < 6 || args.length > 7 || typeof grad !== 'boolean' || !isEmpty(hooks) || !isEmpty(metadata))
    return null;
  if (!(memory instanceof PickleObject) || !('key' in (memory.value as object))) return null;
  return new PickleObject({ memory: memory.value as StoredMemory, offset: offset!, shape: shape!, strides: strides! });
}

/** (tensor, requires_grad, backward_hooks) */
function rebuildParameter(args: readonly Value[]): Value | null {
  const [data, grad, hooks] = args;
  if (args.length !== 3 || typeof grad !== 'boolean' || !isEmpty(hooks)) return null;
  return data instanceof PickleObject && 'memory' in (data.value as object) ? data : null;
}

/** Hooks and marks (conjugate, negative) would change what the tensor is; a state dict has none. */
function isEmpty(value: Value | undefined): boolean {
  return value === undefined || value === null || (value instanceof PickleDict && value.entries.size === 0);
}

function check(raw: RawTensor, storage: (key: string) => ZipEntry | undefined, where: string): StoredTensor {
  const { key, type, count } = raw.memory;
  const { format, dtype, bytes } = STORAGES[type]!;
  const entry = storage(key);
  if (!entry)
    throw new CheckpointError(`${where} should lie in entry data/${quote(key)}, which the file does not have`);
  if (entry.size !== count * bytes)
    throw new CheckpointError(
      `${where} lies in ${count} values of ${format}, which are ${count * bytes} bytes, but ${quote(entry.name)} has ${entry.size}`,
    );
  const { offset } = raw;
  const shape = raw.shape instanceof PickleTuple ? raw.shape.items : null;
  const strides = raw.strides instanceof PickleTuple ? raw.strides.items : null;
  if (!isCount(offset)) throw new CheckpointError(`${where} has no offset of 0 or more`);
  if (!shape?.every(isCount)) throw new CheckpointError(`${where} has no shape of non-negative integers`);
  if (!strides?.every(isCount)) throw new CheckpointError(`${where} has no strides of non-negative integers`);
  if (shape.length !== strides.length)
    throw new CheckpointError(`${where} has ${shape.length} sizes but ${strides.length} strides`);
  if (shape.length > MAX_DIMENSIONS) throw new CheckpointError(`${where} has ${shape.length} dimensions`);
  const values = shape.reduce((product, size) => product * size, 1);
  // An empty tensor may have large sizes beside its 0, up to what a 64-bit product holds.
  if (!isCount(shape.reduce((product, size) => product * Math.max(size, 1), 1)))
    throw new CheckpointError(`${where} has the impossible shape ${quote(shape)}`);
  const end = values === 0 ? offset : 1 + shape.reduce((last, size, i) => last + (size - 1) * strides[i]!, offset);
  if (end > count) throw new CheckpointError(`${where} reaches to value ${end} of its memory, which has only ${count}`);
  // A stride of 0 lets a few bytes claim any size; no state dict stores such a view.
  if (values > count)
    throw new CheckpointError(`${where} has shape ${quote(shape)}, more values than the ${count} stored for it`);
  return { entry, format, dtype, itemBytes: bytes, offset, shape, strides };
}

function isCount(value: Value | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
