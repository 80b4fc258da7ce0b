/** Element types by PyTorch's names. */
export type DType =
  | 'float32'
  | 'float64'
  | 'float16'
  | 'bfloat16'
  | 'int64'
  | 'int32'
  | 'int16'
  | 'int8'
  | 'uint8'
  | 'bool';

/** `cpu`, `cuda` or `cuda:<index>`. */
export type Device = string;

export type TypedArray =
  | Float32Array
  | Float64Array
  | BigInt64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint8Array
  | Uint16Array;

interface ArrayType {
  new (buffer: ArrayBufferLike, offset: number, length: number): TypedArray;
  readonly BYTES_PER_ELEMENT: number;
}

/** The typed array that holds a dtype's elements; 16-bit floats come as raw Uint16 bits. */
export const ARRAYS: Record<DType, ArrayType> = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

/** Bytes of one element. */
export function elementSize(dtype: DType): number {
  return ARRAYS[dtype].BYTES_PER_ELEMENT;
}

export function dtypeOf(array: TypedArray): DType {
  if (array instanceof Float32Array) return 'float32';
  if (array instanceof Float64Array) return 'float64';
  if (array instanceof BigInt64Array) return 'int64';
  if (array instanceof Int32Array) return 'int32';
  if (array instanceof Int16Array) return 'int16';
  if (array instanceof Int8Array) return 'int8';
  if (array instanceof Uint8Array) return 'uint8';
  if (array instanceof Uint16Array)
    throw new TypeError('a Uint16Array has no dtype of its own: use fromBytes with float16 or bfloat16');
  throw new TypeError(`a ${(array as object).constructor.name} holds no dtype's elements`);
}
