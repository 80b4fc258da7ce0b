/** Nested arrays of JavaScript values as the elements of a tensor; nothing is rounded, wrapped or guessed to make a value fit. */
import type { DType, TypedArray } from './dtype.ts';
import { TorchError } from './errors.ts';

export type Nested = number | bigint | boolean | readonly Nested[];

/** Deeper nesting than any tensor has dimensions; an array that holds itself never ends. */
const MAX_DEPTH = 64;

/** Smallest and largest value of the integer types. */
const RANGES: Partial<Record<DType, readonly [low: bigint, high: bigint]>> = {
  int64: [-(2n ** 63n), 2n ** 63n - 1n],
  int32: [-(2n ** 31n), 2n ** 31n - 1n],
  int16: [-(2n ** 15n), 2n ** 15n - 1n],
  int8: [-128n, 127n],
  uint8: [0n, 255n],
};

export interface Elements {
  /** All elements in row-major order. */
  array: TypedArray;
  /** The type of the array: `dtype`, or float32 where `dtype` is a 16-bit float, which JavaScript has no array for. */
  dtype: DType;
  shape: number[];
}

/**
 * Reads nested arrays. Without `dtype` the first element decides: a bigint int64, a boolean bool, a number float32.
 * @throws TorchError when the arrays are not rectangular, nested without end, or hold a value that the dtype cannot
 */
export function readNested(data: Nested, dtype?: DType): Elements {
  const shape: number[] = [];
  let first: unknown = data;
  for (; Array.isArray(first); first = first[0]) {
    shape.push(first.length);
    if (shape.length > MAX_DEPTH)
      throw new TorchError('tensor', `the arrays are nested more than ${MAX_DEPTH} deep: does one hold itself?`);
  }
  const wanted = dtype ?? (typeof first === 'bigint' ? 'int64' : typeof first === 'boolean' ? 'bool' : 'float32');
  const stored = wanted === 'float16' || wanted === 'bfloat16' ? 'float32' : wanted;
  const array = allocate(
    stored,
    shape.reduce((count, size) => count * size, 1),
  );
  const convert = converter(wanted);
  let place = 0;
  const walk = (value: unknown, depth: number): void => {
    const isArray = Array.isArray(value);
    if (isArray !== depth < shape.length || (isArray && value.length !== shape[depth]))
      throw new TorchError('tensor', `nested arrays are not rectangular at depth ${depth}`);
    if (isArray) for (const item of value) walk(item, depth + 1);
    else array[place++] = convert(value);
  };
  walk(data, 0);
  return { array, dtype: stored, shape };
}

function allocate(dtype: DType, count: number): TypedArray {
  const Type = {
    float32: Float32Array,
    float64: Float64Array,
    int64: BigInt64Array,
    int32: Int32Array,
    int16: Int16Array,
    int8: Int8Array,
  }[dtype as string];
  try {
    return new (Type ?? Uint8Array)(count);
  } catch {
    throw new TorchError('tensor', `nested arrays of ${count} elements do not fit into memory`);
  }
}

function converter(dtype: DType): (value: unknown) => number | bigint {
  const refuse = (value: unknown, why: string) => new TorchError('tensor', `${show(value)} ${why}`);
  const check = (value: unknown): number | bigint => {
    if (typeof value === 'number' || typeof value === 'bigint') return value;
    if (typeof value === 'boolean') return value ? 1 : 0;
    throw refuse(value, `is no element of a ${dtype} tensor: numbers, bigints and booleans are`);
  };
  if (dtype === 'bool') return (value) => (Number(check(value)) === 0 ? 0 : 1);
  const range = RANGES[dtype];
  if (!range) return (value) => Number(check(value));
  const [low, high] = range;
  const [lowest, highest] = [Number(low), Number(high)];
  return (value) => {
    const number = check(value);
    if (typeof number === 'number' && !Number.isInteger(number))
      throw refuse(value, `is no whole number, as ${dtype} needs`);
    // 2^63 is a number, but 2^63 - 1 is none: only bigints compare right at that end.
    const exact = dtype === 'int64' ? BigInt(number) : number;
    if (dtype === 'int64' ? exact < low || exact > high : number < lowest || number > highest)
      throw refuse(value, `does not fit ${dtype}, which holds ${low} to ${high}`);
    return dtype === 'int64' ? exact : Number(exact);
  };
}

function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}..` : value);
  if (typeof value === 'object' && value !== null) return 'an object';
  if (typeof value === 'function' || typeof value === 'symbol') return `a ${typeof value}`;
  const text = String(value);
  return text.length > 40 ? `${text.slice(0, 40)}..` : text;
}
