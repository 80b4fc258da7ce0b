import { markAsUntransferable } from 'node:worker_threads';
import { type Device, type DType, dtypeOf, type TypedArray } from './dtype.ts';
import { TorchError } from './errors.ts';
import { native } from './native.ts';
import { type Nested, readNested } from './nested.ts';
import { op } from './op.ts';
import { type Tensor, wrap } from './tensor.ts';

export type { Nested };

export interface TensorOptions {
  /** Default float32 (int64 for arange of whole numbers, randint and randperm). */
  dtype?: DType;
  /** Default `cpu`. */
  device?: Device;
  requiresGrad?: boolean;
}

function finish(tensor: Tensor, options: TensorOptions): Tensor {
  if (options.requiresGrad) tensor.requiresGrad = true;
  return tensor;
}

function make(name: string, overload: string, args: unknown[], o: TensorOptions, dtype: DType = 'float32'): Tensor {
  return finish(op(name, overload)(...args, o.dtype ?? dtype, null, o.device ?? null) as Tensor, o);
}

/** Returns what `step` makes of the tensor and frees the tensor at once. */
function replace(before: Tensor, step: (before: Tensor) => Tensor): Tensor {
  using spent = before;
  return step(spent);
}

/**
 * A tensor from nested arrays (rectangular) or a typed array. Numbers become float32 unless `dtype` says otherwise, bigints int64,
 * booleans bool; a typed array keeps its own type. `shape` reshapes. A `dtype` other than a typed array's own converts as `to()` does.
 * @throws TorchError when a value of a nested array does not fit the dtype, or the arrays are no rectangle
 */
export function tensor(data: Nested | TypedArray, options: TensorOptions & { shape?: readonly number[] } = {}): Tensor {
  let made: Tensor;
  if (ArrayBuffer.isView(data)) {
    const array = data as TypedArray;
    made = fromBytes(bytesOf(array), dtypeOf(array), options.shape ?? [array.length]);
  } else {
    const { array, dtype, shape } = readNested(data as Nested, options.dtype);
    made = fromBytes(bytesOf(array), dtype, shape);
    if (options.shape) made = replace(made, (first) => first.reshape(options.shape!));
  }
  if ((options.dtype && options.dtype !== made.dtype) || options.device)
    made = replace(made, (first) => first.to({ dtype: options.dtype, device: options.device }));
  return finish(made, options);
}

function bytesOf(array: TypedArray): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** A CPU tensor holding a copy of raw little-endian bytes. @throws TorchError when the sizes do not fit. */
export function fromBytes(bytes: Uint8Array, dtype: DType, shape: readonly number[]): Tensor {
  return wrap(native.fromBytes(bytes, dtype, shape));
}

/**
 * A CPU tensor over the array's own memory, without a copy: writing one changes the other. The array stays alive with the tensor, and its
 * buffer can no longer be transferred to another thread or resized away, since the tensor would then read freed memory.
 * @throws TorchError when the buffer is resizable or was transferred, is not aligned for the dtype, or has not the size
 */
export function shareBytes(bytes: Uint8Array, dtype: DType, shape: readonly number[]): Tensor {
  const buffer = bytes.buffer as ArrayBufferLike & { resizable?: boolean };
  if (buffer.resizable)
    throw new TorchError(
      'shareBytes',
      'the memory of a resizable ArrayBuffer cannot be shared: use fromBytes, which copies',
    );
  const made = wrap(native.shareBuffer(bytes, dtype, shape));
  pin(buffer);
  return made;
}

/** Keeps a buffer's memory in its place: postMessage and structuredClone respect the mark, transfer() asks the object itself. */
function pin(buffer: ArrayBufferLike): void {
  markAsUntransferable(buffer);
  for (const name of ['transfer', 'transferToFixedLength'])
    Object.defineProperty(buffer, name, { value: refuseTransfer });
}

function refuseTransfer(): never {
  throw new TorchError('shareBytes', 'a tensor shares this ArrayBuffer, so it cannot be transferred');
}

export function zeros(shape: readonly number[], o: TensorOptions = {}): Tensor {
  return make('aten::zeros', '', [shape], o);
}
export function ones(shape: readonly number[], o: TensorOptions = {}): Tensor {
  return make('aten::ones', '', [shape], o);
}
export function empty(shape: readonly number[], o: TensorOptions = {}): Tensor {
  return make('aten::empty', 'memory_format', [shape], o);
}
export function full(shape: readonly number[], value: number, o: TensorOptions = {}): Tensor {
  return make('aten::full', '', [shape, value], o);
}
export function arange(start: number, end: number, step = 1, o: TensorOptions = {}): Tensor {
  const whole = Number.isInteger(start) && Number.isInteger(end) && Number.isInteger(step);
  return make('aten::arange', 'start_step', [start, end, step], o, whole ? 'int64' : 'float32');
}
/** Standard normal numbers from the default generator: the same as Python's torch.randn after the same seed. */
export function randn(shape: readonly number[], o: TensorOptions = {}): Tensor {
  return make('aten::randn', '', [shape], o);
}
export function rand(shape: readonly number[], o: TensorOptions = {}): Tensor {
  return make('aten::rand', '', [shape], o);
}
/** Whole numbers in [low, high). */
export function randint(low: number, high: number, shape: readonly number[], o: TensorOptions = {}): Tensor {
  return make('aten::randint', 'low', [low, high, shape], o, 'int64');
}
export function randperm(n: number, o: TensorOptions = {}): Tensor {
  return make('aten::randperm', '', [n], o, 'int64');
}
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  return op('aten::cat')(tensors, dim) as Tensor;
}
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  return op('aten::stack')(tensors, dim) as Tensor;
}
export function where(condition: Tensor, a: Tensor, b: Tensor): Tensor {
  return op('aten::where', 'self')(condition, a, b) as Tensor;
}
