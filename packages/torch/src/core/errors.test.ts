/** Bad calls become TorchErrors that name the op and the argument; the process lives on. */
import { afterEach, expect, test } from 'vitest';
import { cudaAvailable } from '../cuda/index.ts';
import * as ops from '../ops.gen.ts';
import {
  call,
  type Device,
  type DType,
  fromBytes,
  liveTensorCount,
  ones,
  op,
  scope,
  setNumThreads,
  shareBytes,
  type Tensor,
  TorchError,
  tensor,
  zeros,
} from './index.ts';

setNumThreads(1);
const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const any = (value: unknown) => value as never;
const disposed = () => {
  const t = zeros([1]);
  t.dispose();
  return t;
};
const long = (...values: number[]) => tensor(values, { dtype: 'int64' });

/** A buffer that can shrink under a tensor. */
const resizable = (size: number) =>
  new (ArrayBuffer as new (size: number, options: object) => ArrayBuffer)(size, { maxByteLength: 2 * size });
const transferred = (size: number) => {
  const bytes = new Uint8Array(size);
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
  return bytes;
};

/** What is wrong, the call, the op it must name, and what the message must say. */
const TABLE: [string, () => unknown, string, RegExp][] = [
  [
    'shapes that do not broadcast',
    () => zeros([2]).add(zeros([3])),
    'aten::add.Tensor',
    /size of tensor a \(2\).*b \(3\)/,
  ],
  ['shapes of a product', () => zeros([2, 2]).matmul(zeros([3, 3])), 'aten::matmul', /2x2 and 3x3/],
  [
    'a wrong dtype',
    () => zeros([2, 2]).matmul(zeros([2, 2], { dtype: 'int64' })),
    'aten::matmul',
    /dtype.*float != long/,
  ],
  ['a float index', () => zeros([2]).indexSelect(0, zeros([1])), 'aten::index_select', /index.*int/i],
  ['an index out of range', () => zeros([3]).indexSelect(0, long(9)), 'aten::index_select', /out of range/],
  ['gather out of range', () => zeros([3]).gather(0, long(9)), 'aten::gather', /index 9 is out of bounds/],
  [
    'scatter out of range',
    () => zeros([3]).scatter(0, long(-1), zeros([1])),
    'aten::scatter.src',
    /index -1 is out of bounds/,
  ],
  ['embedding out of range', () => ops.embedding(zeros([3, 2]), long(7)), 'aten::embedding', /out of range/],
  ['select out of range', () => zeros([2]).select(0, 5), 'aten::select.int', /index 5 out of range/],
  ['a dim that is not there', () => zeros([2]).sum(3), 'aten::sum.dim_IntList', /got 3/],
  ['a view that does not fit', () => zeros([4]).view([3]), 'aten::view', /\[3\].*size 4/],
  ['too large a k', () => zeros([3]).topk(5), 'aten::topk', /k/],
  ['a negative size', () => zeros([-1]), 'aten::zeros', /non-negative/],
  [
    'an endless size',
    () => zeros([Number.POSITIVE_INFINITY]),
    'aten::zeros',
    /argument 'size' .*expected an integer, got inf/,
  ],
  [
    'not a number',
    () => zeros([2]).select(0, Number.NaN),
    'aten::select.int',
    /argument 'index' .*expected an integer, got nan/,
  ],
  ['more memory than there is', () => zeros([2 ** 53]), 'aten::zeros', /memory/],
  [
    'a fraction for an integer',
    () => zeros([4]).select(0, 0.5),
    'aten::select.int',
    /argument 'index' \(int\): expected an integer, got 0.5/,
  ],
  [
    'a bigint over 64 bits',
    () => ops.add_Scalar(zeros([1]), 2n ** 70n),
    'aten::add.Scalar',
    /argument 'other' .*larger bigint/,
  ],
  [
    'a disposed tensor',
    () => disposed().add(1),
    'aten::add.Scalar',
    /argument 'self' \(Tensor\): this tensor was disposed/,
  ],
  [
    'a disposed argument',
    () => zeros([1]).add(disposed()),
    'aten::add.Tensor',
    /argument 'other' \(Tensor\): this tensor was disposed/,
  ],
  [
    'a disposed list entry',
    () => ops.cat([zeros([1]), disposed()]),
    'aten::cat',
    /argument 'tensors' \(Tensor\[\]\): this tensor was disposed/,
  ],
  ['shape of a disposed tensor', () => disposed().shape, 'Tensor.shape', /disposed/],
  ['data of a disposed tensor', () => disposed().item(), 'Tensor', /disposed/],
  ['backward of a disposed tensor', () => disposed().backward(), 'backward', /disposed/],
  [
    'a string for a tensor',
    () => ops.relu(any('x')),
    'aten::relu',
    /argument 'self' \(Tensor\): expected a Tensor, got a string/,
  ],
  [
    'null for a tensor',
    () => ops.relu(any(null)),
    'aten::relu',
    /argument 'self' \(Tensor\): expected a Tensor, got null/,
  ],
  [
    'a typed array for a tensor',
    () => ops.relu(any(new Float32Array(2))),
    'aten::relu',
    /expected a Tensor, got an object/,
  ],
  ['a made-up handle', () => ops.relu(any({ id: 1e9 })), 'aten::relu', /disposed/],
  ['nothing for a tensor', () => ops.relu(any(undefined)), 'aten::relu', /argument 'self' is missing/],
  [
    'a number among tensors',
    () => ops.cat(any([zeros([2]), 5])),
    'aten::cat',
    /argument 'tensors' \(Tensor\[\]\): expected a Tensor, got a number/,
  ],
  [
    'a string among sizes',
    () => zeros([4]).view(any([2, 'x'])),
    'aten::view',
    /argument 'size' \(int\[\]\): expected an integer, got a string/,
  ],
  [
    'a string for a list',
    () => zeros([2]).permute(any('a')),
    'aten::permute',
    /argument 'dims' .*expected an array, got a string/,
  ],
  [
    'a number for a boolean',
    () => ops.argmax(zeros([2]), 0, any(1)),
    'aten::argmax',
    /argument 'keepdim' \(bool\): expected a boolean, got a number/,
  ],
  [
    'a tensor for a number',
    () => ops.leaky_relu(zeros([1]), any(zeros([1]))),
    'aten::leaky_relu',
    /argument 'negative_slope' .*expected a number, got an object/,
  ],
  [
    'a number for a string',
    () => ops.div_Tensor_mode(zeros([1]), ones([1]), any(3)),
    'aten::div.Tensor_mode',
    /argument 'rounding_mode' .*expected a string, got a number/,
  ],
  [
    'a word the op does not know',
    () => ops.div_Tensor_mode(zeros([1]), ones([1]), 'up'),
    'aten::div.Tensor_mode',
    /rounding_mode.*'up'/,
  ],
  ['an unknown dtype', () => ops.zeros([2], any('float3')), 'aten::zeros', /argument 'dtype' .*unknown dtype "float3"/],
  [
    'a dtype number that is none',
    () => ops.zeros([2], any(999)),
    'aten::zeros',
    /argument 'dtype' .*unknown dtype number 999/,
  ],
  [
    'a negative dtype number',
    () => ops.zeros([2], any(-1)),
    'aten::zeros',
    /argument 'dtype' .*unknown dtype number -1/,
  ],
  [
    'a layout that is none',
    () => ops.zeros([2], null, any(99)),
    'aten::zeros',
    /argument 'layout' .*unknown layout number 99/,
  ],
  [
    'a memory format that is none',
    () => ops.clone(zeros([2]), any(99)),
    'aten::clone',
    /argument 'memory_format' .*unknown memory format number 99/,
  ],
  [
    'a dtype where a layout belongs',
    () => ops.zeros([2], null, any('float32')),
    'aten::zeros',
    /argument 'layout' .*unknown layout "float32"/,
  ],
  [
    'a dtype or device that is neither',
    () => zeros([2]).to(any('floa32')),
    'aten::to.dtype_layout',
    /argument 'device' .*'floa32'/,
  ],
  ['an unknown device', () => zeros([2], { device: 'nowhere' }), 'aten::zeros', /argument 'device' .*nowhere/],
  ['too many arguments', () => op('aten::relu')(zeros([1]), 1), 'aten::relu', /takes 1 arguments, got 2/],
  [
    'far too many arguments',
    () => op('aten::relu')(...new Array(200).fill(1)),
    'aten::relu',
    /takes 1 arguments, got 200/,
  ],
  [
    'too many arguments of a generated function',
    () => (ops.relu as (...args: unknown[]) => unknown)(zeros([1]), 1),
    'aten::relu',
    /takes 1 arguments, got 2/,
  ],
  [
    'too many arguments of a function with defaults',
    () => (ops.add_Tensor as (...args: unknown[]) => unknown)(zeros([1]), zeros([1]), 1, undefined),
    'aten::add.Tensor',
    /takes 3 arguments, got 4/,
  ],
  ['an unknown op', () => call('aten::nope', 'Tensor', 1), '', /unknown op aten::nope.Tensor/],
  ['an unknown overload', () => op('aten::add', 'nope'), '', /unknown op aten::add.nope/],
  ['too few bytes', () => fromBytes(new Uint8Array(3), 'float32', [1]), 'fromBytes', /ask for 4 bytes, got 3/],
  [
    'bytes of an unknown dtype',
    () => fromBytes(new Uint8Array(4), any('float3'), [1]),
    'fromBytes',
    /unknown dtype "float3"/,
  ],
  ['bytes that are none', () => fromBytes(any([1]), 'uint8', [1]), 'fromBytes', /expected a Uint8Array/],
  ['a negative size for bytes', () => fromBytes(new Uint8Array(4), 'uint8', [-4]), 'fromBytes', /no negative sizes/],
  [
    'memory that is not aligned',
    () => shareBytes(new Uint8Array(9).subarray(1), 'float32', [2]),
    'shareBuffer',
    /not aligned/,
  ],
  [
    'sharing memory that may be resized away',
    () => shareBytes(new Uint8Array(resizable(8)), 'uint8', [8]),
    'shareBytes',
    /resizable ArrayBuffer/,
  ],
  ['sharing memory that was transferred', () => shareBytes(transferred(8), 'uint8', [0]), 'shareBuffer', /transferred/],
  ['a copy of memory that was transferred', () => fromBytes(transferred(8), 'uint8', [0]), 'fromBytes', /transferred/],
  [
    'memory that goes while it is asked for',
    () => {
      const bytes = new Uint8Array(8);
      const shape = [8];
      Object.defineProperty(shape, 0, { get: () => structuredClone(8, { transfer: [bytes.buffer] }) });
      shareBytes(bytes, 'uint8', shape);
    },
    'shareBuffer',
    /transferred/,
  ],
  ['a matrix without an inverse', () => ops.linalg_inv(zeros([2, 2])), 'aten::linalg_inv', /singular/],
  [
    'a batch norm without statistics',
    () => ops.native_batch_norm(ones([2, 3]), null, null, null, null, false, 0.1, 1e-5),
    'aten::native_batch_norm',
    /argument 'running_mean' is needed when it is not training/,
  ],
  [
    'the gradient of a batch norm without what the forward pass saved',
    () =>
      ops.native_batch_norm_backward(ones([2, 3]), ones([2, 3]), null, null, null, null, null, true, 1e-5, [
        true,
        true,
        true,
      ]),
    'aten::native_batch_norm_backward',
    /argument 'save_mean' is needed when it is training/,
  ],
  ['a tensor without numbers', () => zeros([2], { device: 'meta' }).toNumbers(), 'Tensor.data', /meta/],
];

test.each(TABLE)('%s', (_, attempt, name, message) => {
  scope(() => {
    let error: unknown;
    try {
      attempt();
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(TorchError);
    const { op: named, message: text } = error as TorchError;
    expect(named).toBe(name);
    expect(text).toMatch(message);
    if (name !== '') expect(text.startsWith(`${name}: `)).toBe(true);
    expect(text).not.toContain('\n');
    expect(text.length).toBeLessThan(400);
  });
});

test.skipIf(cudaAvailable())('a device that this libtorch lacks is said shortly', () => {
  for (const attempt of [() => zeros([2], { device: 'cuda' }), () => scope(() => zeros([2]).to('cuda:0'))]) {
    expect(attempt).toThrow(/CUDA|NVIDIA/);
    let text = '';
    try {
      attempt();
    } catch (error) {
      text = (error as Error).message;
    }
    expect(text.length).toBeLessThan(300);
    // A build without CUDA, and one with it where there is no driver.
    expect(text).toMatch(
      /^aten::(zeros|to\.dtype_layout): (Could not run .* from the 'CUDA' backend\.|Found no NVIDIA driver on your system\..*)$/,
    );
  }
});

test('every op refuses nonsense without an abort', () => {
  // Wrong types in every place of a sample of all operators.
  const names = Object.keys(ops).filter((_, i) => i % 7 === 0);
  let refused = 0;
  for (const name of names) {
    try {
      scope(() =>
        (ops as unknown as Record<string, (...args: unknown[]) => unknown>)[name]!(
          any({ wrong: true }),
          'no',
          {},
          'no',
          {},
        ),
      );
    } catch (error) {
      expect(error, name).toBeInstanceOf(TorchError);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(0.95 * names.length);
});

test('what a getter throws passes through', () => {
  const trap = {
    get id(): number {
      throw new RangeError('mine');
    },
  };
  expect(() => ops.relu(trap as unknown as Tensor)).toThrow(RangeError);
});

test('types say what may be passed', () => {
  const dtype: DType = 'float32';
  const device: Device = 'cpu';
  expect([dtype, device]).toEqual(['float32', 'cpu']);
});
