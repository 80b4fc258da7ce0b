import { countsCrossings, noteRead, noteUpload } from './crossings.ts';
import { ARRAYS, type Device, type DType, type TypedArray } from './dtype.ts';
import { TorchError } from './errors.ts';
import { native } from './native.ts';
import { own, release, setOwnedTest } from './scope.ts';

export type Operand = Tensor | number;

type Bound = (...args: unknown[]) => Tensor;

// Ops used by the methods below, looked up on first use. (op.ts wraps results in Tensor, so it cannot be imported here.)
function bind(name: string, overload = ''): Bound {
  let index = -1;
  return (...args) => {
    if (index < 0) index = native.findOp(`aten::${name}`, overload)[0];
    const id = native.callOp(index, ...args) as number;
    return id < 0 ? (args[-id - 1] as Tensor) : wrap(id);
  };
}

function bindBoth(name: string): (self: Tensor, other: Operand, ...rest: unknown[]) => Tensor {
  const tensor = bind(name, 'Tensor');
  const scalar = bind(name, 'Scalar');
  return (self, other, ...rest) =>
    typeof other === 'number' ? scalar(self, other, ...rest) : tensor(self, other, ...rest);
}

// biome-ignore format: a table reads better than one entry a line
const aten = {
  add: bindBoth('add'), sub: bindBoth('sub'), mul: bindBoth('mul'), div: bindBoth('div'), addInPlace: bindBoth('add_'), mulInPlace: bindBoth('mul_'),
  eq: bindBoth('eq'), ne: bindBoth('ne'), lt: bindBoth('lt'), le: bindBoth('le'), gt: bindBoth('gt'), ge: bindBoth('ge'),
  powScalar: bind('pow', 'Tensor_Scalar'), neg: bind('neg'), exp: bind('exp'), log: bind('log'), sqrt: bind('sqrt'), rsqrt: bind('rsqrt'),
  tanh: bind('tanh'), sigmoid: bind('sigmoid'), abs: bind('abs'), matmul: bind('matmul'), sumAll: bind('sum'), sum: bind('sum', 'dim_IntList'),
  meanAll: bind('mean'), mean: bind('mean', 'dim'), max: bind('max'), min: bind('min'), all: bind('all'), any: bind('any'),
  softmax: bind('softmax', 'int'), logSoftmax: bind('log_softmax', 'int'), argmax: bind('argmax'), gather: bind('gather'), scatter: bind('scatter', 'src'),
  indexSelect: bind('index_select'), maskedFill: bind('masked_fill', 'Scalar'), copy: bind('copy_'), zero: bind('zero_'), fill: bind('fill_', 'Scalar'),
  repeatInterleave: bind('repeat_interleave', 'self_int'), roll: bind('roll'), flip: bind('flip'), cumsum: bind('cumsum'), detach: bind('detach'), clone: bind('clone'),
  contiguous: bind('contiguous'), toCopy: bind('to', 'dtype_layout'), view: bind('view'), reshape: bind('reshape'), permute: bind('permute'),
  transpose: bind('transpose', 'int'), squeezeAll: bind('squeeze'), squeeze: bind('squeeze', 'dim'), unsqueeze: bind('unsqueeze'), expand: bind('expand'),
  flatten: bind('flatten', 'using_ints'), slice: bind('slice', 'Tensor'), narrow: bind('narrow'), select: bind('select', 'int'), viewDtype: bind('view', 'dtype'),
  logicalNot: bind('logical_not'), logicalAnd: bind('logical_and'), logicalOr: bind('logical_or'),
};

let topkIndex = -1;

/**
 * A libtorch tensor. Made by the factories and ops, never by `new`. Its memory is released by dispose(), by the scope() it was made
 * in, or, outside any scope, by the garbage collector; any use afterwards throws a TorchError. The collector runs late: a loop outside
 * a scope holds some hundred megabytes of dead tensors at a time, where a scope around its body holds none.
 */
export class Tensor {
  /** Native handle number; 0 once disposed. */
  id: number;

  constructor(id: number) {
    this.id = id;
    own(this);
  }

  get disposed(): boolean {
    return this.id === 0;
  }
  dispose(): void {
    release(this);
  }
  [Symbol.dispose](): void {
    release(this);
  }

  get shape(): number[] {
    return native.tensorShape(this, 0);
  }
  /** Steps between neighbours along each dimension, in elements. */
  get strides(): number[] {
    return native.tensorShape(this, 1);
  }
  get dtype(): DType {
    return native.tensorInfo(this, 0) as DType;
  }
  get device(): Device {
    return native.tensorInfo(this, 1) as string;
  }
  get numel(): number {
    return native.tensorInfo(this, 2) as number;
  }
  get ndim(): number {
    return native.tensorInfo(this, 3) as number;
  }
  get isLeaf(): boolean {
    return native.tensorInfo(this, 5) === 1;
  }
  get isContiguous(): boolean {
    return native.tensorInfo(this, 6) === 1;
  }
  /** Bytes of the elements (not of a larger storage behind a view). */
  get nbytes(): number {
    return this.numel * (native.tensorInfo(this, 7) as number);
  }
  get requiresGrad(): boolean {
    return native.tensorInfo(this, 4) === 1;
  }
  set requiresGrad(value: boolean) {
    native.setRequiresGrad(this, value);
  }
  /** Whether there is a `.grad`. */
  get hasGrad(): boolean {
    const { grad } = this;
    grad?.dispose();
    return grad !== null;
  }
  /** The accumulated gradient of a leaf, or null. Each read is a new handle to the same memory. */
  get grad(): Tensor | null {
    const id = native.getGrad(this);
    return id === 0 ? null : wrap(id);
  }
  set grad(value: Tensor | null) {
    native.setGrad(this, value);
  }
  /** Back-propagates from this tensor (a scalar unless `gradient` is given) into the `.grad` of every leaf. */
  backward(gradient: Tensor | null = null): void {
    native.backward([this], [gradient], false, false);
  }

  /** Raw little-endian bytes of the elements in row-major order, copied. */
  bytes(): Uint8Array {
    noteRead();
    const bytes = new Uint8Array(this.nbytes);
    native.copyBytes(this, bytes);
    return bytes;
  }
  /** The elements in row-major order, copied; 16-bit floats as raw Uint16 bits. */
  data(): TypedArray {
    const bytes = this.bytes();
    const array = ARRAYS[this.dtype];
    if (!array) throw new TorchError('Tensor.data', `dtype ${this.dtype} has no typed array`);
    return new array(bytes.buffer, 0, bytes.length / array.BYTES_PER_ELEMENT);
  }
  /** The elements as JavaScript numbers (int64 rounded beyond 2^53), flat, in row-major order. */
  toNumbers(): number[] {
    const dtype = this.dtype;
    if (dtype === 'float16' || dtype === 'bfloat16') {
      using wide = this.detach().to('float32');
      return wide.toNumbers();
    }
    const data = this.data();
    return data instanceof BigInt64Array ? Array.from(data, Number) : Array.from(data as Float32Array);
  }
  /** Nested arrays of numbers (a number for a 0-d tensor, 0 and 1 for booleans). */
  tolist(): unknown {
    const nest = (flat: number[], shape: number[]): unknown => {
      const [size, ...rest] = shape;
      if (size === undefined) return flat[0];
      const step = flat.length / size;
      return Array.from({ length: size }, (_, i) => nest(flat.slice(i * step, (i + 1) * step), rest));
    };
    return nest(this.toNumbers(), this.shape);
  }
  /** The only element, as a number. @throws TorchError when there is not exactly one. */
  item(): number {
    if (this.numel !== 1) throw new TorchError('Tensor.item', `a tensor of ${this.numel} elements has no single item`);
    return this.toNumbers()[0]!;
  }

  detach(): Tensor {
    return aten.detach(this);
  }
  clone(): Tensor {
    return aten.clone(this);
  }
  contiguous(): Tensor {
    return aten.contiguous(this);
  }
  /** Converts to a dtype, a device, or both; shares memory when nothing changes. */
  to(target: DType | Device | { dtype?: DType; device?: Device }): Tensor {
    const o = typeof target === 'object' ? target : target in ARRAYS ? { dtype: target as DType } : { device: target };
    if (o.device !== undefined && countsCrossings() && this.device === 'cpu') noteUpload();
    return aten.toCopy(this, o.dtype ?? null, null, o.device ?? null);
  }
  view(shape: readonly number[]): Tensor {
    return aten.view(this, shape);
  }
  /** The same bytes read as another dtype (ATen `view.dtype`). */
  viewAs(dtype: DType): Tensor {
    return aten.viewDtype(this, dtype);
  }
  reshape(shape: readonly number[]): Tensor {
    return aten.reshape(this, shape);
  }
  permute(dims: readonly number[]): Tensor {
    return aten.permute(this, dims);
  }
  transpose(a: number, b: number): Tensor {
    return aten.transpose(this, a, b);
  }
  squeeze(dim?: number): Tensor {
    return dim === undefined ? aten.squeezeAll(this) : aten.squeeze(this, dim);
  }
  unsqueeze(dim: number): Tensor {
    return aten.unsqueeze(this, dim);
  }
  expand(shape: readonly number[]): Tensor {
    return aten.expand(this, shape);
  }
  flatten(start = 0, end = -1): Tensor {
    return aten.flatten(this, start, end);
  }
  slice(dim: number, start: number | null = null, end: number | null = null, step = 1): Tensor {
    return aten.slice(this, dim, start, end, step);
  }
  narrow(dim: number, start: number, length: number): Tensor {
    return aten.narrow(this, dim, start, length);
  }
  select(dim: number, index: number): Tensor {
    return aten.select(this, dim, index);
  }
  gather(dim: number, index: Tensor): Tensor {
    return aten.gather(this, dim, index);
  }
  scatter(dim: number, index: Tensor, source: Tensor): Tensor {
    return aten.scatter(this, dim, index, source);
  }
  indexSelect(dim: number, index: Tensor): Tensor {
    return aten.indexSelect(this, dim, index);
  }
  maskedFill(mask: Tensor, value: number): Tensor {
    return aten.maskedFill(this, mask, value);
  }
  repeatInterleave(count: number, dim: number): Tensor {
    return aten.repeatInterleave(this, count, dim);
  }
  roll(shift: number, dim: number): Tensor {
    return aten.roll(this, [shift], [dim]);
  }
  flip(dims: readonly number[]): Tensor {
    return aten.flip(this, dims);
  }

  /** `this + alpha * other` */
  add(other: Operand, alpha = 1): Tensor {
    return aten.add(this, other, alpha);
  }
  sub(other: Operand): Tensor {
    return aten.sub(this, other);
  }
  mul(other: Operand): Tensor {
    return aten.mul(this, other);
  }
  div(other: Operand): Tensor {
    return aten.div(this, other);
  }
  pow(exponent: number): Tensor {
    return aten.powScalar(this, exponent);
  }
  neg(): Tensor {
    return aten.neg(this);
  }
  exp(): Tensor {
    return aten.exp(this);
  }
  log(): Tensor {
    return aten.log(this);
  }
  sqrt(): Tensor {
    return aten.sqrt(this);
  }
  rsqrt(): Tensor {
    return aten.rsqrt(this);
  }
  tanh(): Tensor {
    return aten.tanh(this);
  }
  sigmoid(): Tensor {
    return aten.sigmoid(this);
  }
  abs(): Tensor {
    return aten.abs(this);
  }
  matmul(other: Tensor): Tensor {
    return aten.matmul(this, other);
  }
  sum(dims?: number | readonly number[], keepdim = false): Tensor {
    return dims === undefined ? aten.sumAll(this) : aten.sum(this, typeof dims === 'number' ? [dims] : dims, keepdim);
  }
  mean(dims?: number | readonly number[], keepdim = false): Tensor {
    return dims === undefined ? aten.meanAll(this) : aten.mean(this, typeof dims === 'number' ? [dims] : dims, keepdim);
  }
  max(): Tensor {
    return aten.max(this);
  }
  min(): Tensor {
    return aten.min(this);
  }
  all(): Tensor {
    return aten.all(this);
  }
  any(): Tensor {
    return aten.any(this);
  }
  cumsum(dim: number): Tensor {
    return aten.cumsum(this, dim);
  }
  softmax(dim: number, dtype?: DType): Tensor {
    return aten.softmax(this, dim, dtype ?? null);
  }
  logSoftmax(dim: number): Tensor {
    return aten.logSoftmax(this, dim);
  }
  argmax(dim: number | null = null, keepdim = false): Tensor {
    return aten.argmax(this, dim, keepdim);
  }
  /** The `k` largest (or smallest) entries along `dim`: values and int64 indices. */
  topk(k: number, dim = -1, largest = true, sorted = true): [values: Tensor, indices: Tensor] {
    if (topkIndex < 0) topkIndex = native.findOp('aten::topk', '')[0];
    const [values, indices] = native.callOp(topkIndex, this, k, dim, largest, sorted) as [number, number];
    return [wrap(values), wrap(indices)];
  }
  eq(other: Operand): Tensor {
    return aten.eq(this, other);
  }
  ne(other: Operand): Tensor {
    return aten.ne(this, other);
  }
  lt(other: Operand): Tensor {
    return aten.lt(this, other);
  }
  le(other: Operand): Tensor {
    return aten.le(this, other);
  }
  gt(other: Operand): Tensor {
    return aten.gt(this, other);
  }
  ge(other: Operand): Tensor {
    return aten.ge(this, other);
  }
  not(): Tensor {
    return aten.logicalNot(this);
  }
  and(other: Tensor): Tensor {
    return aten.logicalAnd(this, other);
  }
  or(other: Tensor): Tensor {
    return aten.logicalOr(this, other);
  }

  copy_(source: Tensor): this {
    aten.copy(this, source);
    return this;
  }
  zero_(): this {
    aten.zero(this);
    return this;
  }
  fill_(value: number): this {
    aten.fill(this, value);
    return this;
  }
  /** `this += alpha * other` */
  add_(other: Operand, alpha = 1): this {
    aten.addInPlace(this, other, alpha);
    return this;
  }
  mul_(other: Operand): this {
    aten.mulInPlace(this, other);
    return this;
  }

  toString(): string {
    if (this.disposed) return 'Tensor(disposed)';
    const shown = this.numel <= 64 ? JSON.stringify(this.tolist()) : `${this.numel} elements`;
    return `Tensor([${this.shape.join(', ')}], ${this.dtype}, ${this.device}, ${shown})`;
  }
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return this.toString();
  }
}

/** Gives a handle number its object. */
export function wrap(id: number): Tensor {
  return new Tensor(id);
}

setOwnedTest((value): value is Tensor => value instanceof Tensor);
