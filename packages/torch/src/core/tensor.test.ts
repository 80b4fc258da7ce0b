/** Tensors and their data: typed arrays in and out, metadata, indexing, printing. */
import { inspect } from 'node:util';
import { afterEach, describe, expect, test } from 'vitest';
import {
  arange,
  cat,
  type DType,
  elementSize,
  empty,
  fromBytes,
  full,
  liveTensorCount,
  ones,
  rand,
  randint,
  randn,
  scope,
  setNumThreads,
  shareBytes,
  stack,
  type Tensor,
  type TypedArray,
  tensor,
  where,
  zeros,
} from './index.ts';

setNumThreads(1);
const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const check = (body: () => void) => () => scope(body);

const SAMPLES: [DType, TypedArray, number[]][] = [
  ['float32', Float32Array.of(1.5, -0, 3.25e20, Number.NEGATIVE_INFINITY), [1.5, -0, Math.fround(3.25e20), -Infinity]],
  ['float64', Float64Array.of(Math.PI, -1e300, Number.MIN_VALUE, 0), [Math.PI, -1e300, Number.MIN_VALUE, 0]],
  ['int64', BigInt64Array.of(2n ** 62n, -(2n ** 63n), -1n, 7n), [2 ** 62, -(2 ** 63), -1, 7]],
  ['int32', Int32Array.of(2147483647, -2147483648, -1, 7), [2147483647, -2147483648, -1, 7]],
  ['int16', Int16Array.of(32767, -32768, -1, 7), [32767, -32768, -1, 7]],
  ['int8', Int8Array.of(127, -128, -1, 7), [127, -128, -1, 7]],
  ['uint8', Uint8Array.of(255, 0, 128, 7), [255, 0, 128, 7]],
  ['bool', Uint8Array.of(1, 0, 0, 1), [1, 0, 0, 1]],
  ['float16', Uint16Array.of(0x3e00, 0xbc00, 0x7bff, 0x0001), [1.5, -1, 65504, 2 ** -24]],
  ['bfloat16', Uint16Array.of(0x3fc0, 0xbf80, 0x7f7f, 0x4049), [1.5, -1, 3.3895313892515355e38, 3.140625]],
];

describe.each(SAMPLES)('%s', (dtype, array, numbers) => {
  test(
    'bytes go in and out unchanged',
    check(() => {
      const bytes = new Uint8Array(array.buffer);
      const made = fromBytes(bytes, dtype, [2, 2]);
      expect([made.dtype, made.shape, made.device]).toEqual([dtype, [2, 2], 'cpu']);
      expect(made.nbytes).toBe(4 * elementSize(dtype));
      expect(made.bytes()).toEqual(bytes);
      expect(made.data()).toEqual(array);
      expect(made.data().constructor).toBe(array.constructor);
      expect(made.toNumbers()).toEqual(numbers);
      expect(made.tolist()).toEqual([numbers.slice(0, 2), numbers.slice(2)]);
      bytes[0]! ^= 1; // a copy: the tensor does not follow
      expect(made.bytes()[0]).not.toBe(bytes[0]);
      bytes[0]! ^= 1;
    }),
  );

  test(
    'nested numbers become it, and it converts to float64 and back',
    check(() => {
      const small = dtype === 'bool' ? [1, 0] : [3, 4];
      const made = tensor(small, { dtype });
      expect([made.dtype, made.toNumbers()]).toEqual([dtype, small]);
      expect(made.to('float64').to(dtype).data()).toEqual(made.data());
    }),
  );
});

test(
  'what nested arrays and typed arrays become by default',
  check(() => {
    expect(tensor(2.5).shape).toEqual([]);
    expect(tensor([1, 2]).dtype).toBe('float32');
    expect(tensor([[1n], [2n]]).dtype).toBe('int64');
    expect(tensor([true, false]).tolist()).toEqual([1, 0]);
    expect(tensor([[], []]).shape).toEqual([2, 0]);
    expect(tensor(Int16Array.of(1, 2, 3, 4), { shape: [2, 2] }).tolist()).toEqual([
      [1, 2],
      [3, 4],
    ]);
    expect(tensor(Float32Array.of(0, 1, 2).subarray(1)).tolist()).toEqual([1, 2]);
    expect(tensor([1, 2, 3, 4], { shape: [2, 2], dtype: 'float16' }).tolist()).toEqual([
      [1, 2],
      [3, 4],
    ]);
    expect(() => tensor([[1, 2], [3]])).toThrow(/not rectangular at depth 1/);
    expect(() => tensor([[1], 2])).toThrow(/not rectangular at depth 1/);
    expect(() => tensor([1, 2.5], { dtype: 'int64' })).toThrow('2.5 is no whole number');
    expect(() => tensor(Uint16Array.of(1))).toThrow(/fromBytes with float16 or bfloat16/);
    expect(() => tensor(Uint32Array.of(1) as unknown as TypedArray)).toThrow(/Uint32Array/);
  }),
);

test('conversions on the way leave no tensor behind, outside a scope too', () => {
  const before = liveTensorCount();
  using _ = tensor([1, 2, 3, 4], { shape: [2, 2], dtype: 'float16' });
  expect(liveTensorCount()).toBe(before + 1);
});

test(
  'factories',
  check(() => {
    expect(zeros([2, 0]).numel).toBe(0);
    expect(ones([2], { dtype: 'int8' }).toNumbers()).toEqual([1, 1]);
    expect(full([2], 7, { dtype: 'float64' }).toNumbers()).toEqual([7, 7]);
    expect(empty([3, 2], { dtype: 'bfloat16' }).shape).toEqual([3, 2]);
    expect(arange(0, 5, 2).tolist()).toEqual([0, 2, 4]);
    expect(arange(0, 5, 2).dtype).toBe('int64');
    expect(arange(0, 1, 0.25).tolist()).toEqual([0, 0.25, 0.5, 0.75]);
    const whole = randint(-3, 4, [1000]).toNumbers();
    expect([Math.min(...whole), Math.max(...whole)]).toEqual([-3, 3]);
    const uniform = rand([1000]).toNumbers();
    expect(Math.min(...uniform)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...uniform)).toBeLessThan(1);
    expect(Math.abs(randn([4000]).mean().item())).toBeLessThan(0.1);
    expect(zeros([1], { requiresGrad: true }).requiresGrad).toBe(true);
    expect(cat([ones([1, 2]), zeros([2, 2])]).shape).toEqual([3, 2]);
    expect(stack([ones([2]), zeros([2])], 1).tolist()).toEqual([
      [1, 0],
      [1, 0],
    ]);
    expect(where(tensor([true, false]), ones([2]), zeros([2])).tolist()).toEqual([1, 0]);
  }),
);

const grid = () => arange(0, 12, 1).view([3, 4]);

const VIEWS: [string, (t: Tensor) => Tensor, unknown][] = [
  [
    'slice rows',
    (t) => t.slice(0, 1),
    [
      [4, 5, 6, 7],
      [8, 9, 10, 11],
    ],
  ],
  [
    'slice with a step',
    (t) => t.slice(1, 0, 4, 3),
    [
      [0, 3],
      [4, 7],
      [8, 11],
    ],
  ],
  [
    'slice from the end',
    (t) => t.slice(1, -2, null),
    [
      [2, 3],
      [6, 7],
      [10, 11],
    ],
  ],
  [
    'narrow',
    (t) => t.narrow(1, 1, 2),
    [
      [1, 2],
      [5, 6],
      [9, 10],
    ],
  ],
  ['select', (t) => t.select(0, 2), [8, 9, 10, 11]],
  ['select from the end', (t) => t.select(-1, -1), [3, 7, 11]],
  [
    'indexSelect',
    (t) => t.indexSelect(0, tensor([2n, 0n])),
    [
      [8, 9, 10, 11],
      [0, 1, 2, 3],
    ],
  ],
  ['gather', (t) => t.gather(1, tensor([[3n], [0n], [1n]])), [[3], [4], [9]]],
  [
    'scatter',
    (t) => t.scatter(1, tensor([[1n], [2n], [3n]]), tensor([[-1n], [-2n], [-3n]])),
    [
      [0, -1, 2, 3],
      [4, 5, -2, 7],
      [8, 9, 10, -3],
    ],
  ],
  [
    'transpose',
    (t) => t.transpose(0, 1),
    [
      [0, 4, 8],
      [1, 5, 9],
      [2, 6, 10],
      [3, 7, 11],
    ],
  ],
  [
    'permute',
    (t) => t.view([3, 2, 2]).permute([1, 2, 0]).select(0, 0),
    [
      [0, 4, 8],
      [1, 5, 9],
    ],
  ],
  [
    'reshape',
    (t) => t.reshape([2, -1]),
    [
      [0, 1, 2, 3, 4, 5],
      [6, 7, 8, 9, 10, 11],
    ],
  ],
  ['unsqueeze and squeeze', (t) => t.select(0, 0).unsqueeze(1).squeeze(1).unsqueeze(0), [[0, 1, 2, 3]]],
  [
    'flatten',
    (t) => t.view([3, 2, 2]).flatten(1),
    [
      [0, 1, 2, 3],
      [4, 5, 6, 7],
      [8, 9, 10, 11],
    ],
  ],
  [
    'expand',
    (t) => t.narrow(0, 0, 1).expand([2, 4]),
    [
      [0, 1, 2, 3],
      [0, 1, 2, 3],
    ],
  ],
  ['flip', (t) => t.select(0, 0).flip([0]), [3, 2, 1, 0]],
  ['roll', (t) => t.select(0, 0).roll(1, 0), [3, 0, 1, 2]],
  ['repeatInterleave', (t) => t.select(0, 0).narrow(0, 0, 2).repeatInterleave(2, 0), [0, 0, 1, 1]],
  [
    'maskedFill',
    (t) => t.maskedFill(t.lt(10), 0),
    [
      [0, 0, 0, 0],
      [0, 0, 0, 0],
      [0, 0, 10, 11],
    ],
  ],
  ['cumsum', (t) => t.cumsum(1).select(1, 3), [6, 22, 38]],
  [
    'topk',
    (t) => t.topk(2)[0],
    [
      [3, 2],
      [7, 6],
      [11, 10],
    ],
  ],
  ['topk indices, smallest', (t) => t.topk(2, 0, false)[1].select(1, 0), [0, 1]],
  ['argmax', (t) => t.argmax(0), [2, 2, 2, 2]],
  ['sum over two dims', (t) => t.sum([0, 1]), 66],
  ['mean of a dim', (t) => t.to('float32').mean(1), [1.5, 5.5, 9.5]],
  ['softmax', (t) => t.to('float32').mul(0).softmax(-1).select(0, 0), [0.25, 0.25, 0.25, 0.25]],
  ['matmul', (t) => t.matmul(t.transpose(0, 1)).select(0, 0), [14, 38, 62]],
  [
    'comparisons',
    (t) => t.ge(4).and(t.ne(5)).and(t.le(6)).or(t.eq(11)).and(t.gt(4).not().not()),
    [
      [0, 0, 0, 0],
      [0, 0, 1, 0],
      [0, 0, 0, 1],
    ],
  ],
  ['add with alpha', (t) => t.add(t, -1).sum(), 0],
  ['division gives floats', (t) => t.div(4).select(0, 0), [0, 0.25, 0.5, 0.75]],
];

test.each(VIEWS)('%s', (_, run, wanted) => {
  scope(() => expect(run(grid()).tolist()).toEqual(wanted));
});

test(
  'elementwise functions invert each other',
  check(() => {
    const x = tensor([0.5, 1, 2], { dtype: 'float64' });
    const same = x.log().exp().sqrt().pow(2).rsqrt().pow(-2).neg().abs();
    same.toNumbers().forEach((value, i) => {
      expect(value).toBeCloseTo([0.5, 1, 2][i]!, 12);
    });
    expect(x.tanh().select(0, 0).item()).toBeCloseTo(Math.tanh(0.5), 12);
    expect(x.sigmoid().add(x.neg().sigmoid()).sum().item()).toBeCloseTo(3, 12);
    expect(x.max().item() - x.min().item()).toBe(1.5);
    expect([x.gt(0).all().item(), x.gt(5).any().item()]).toEqual([1, 0]);
  }),
);

test(
  'strides, contiguity and shared memory',
  check(() => {
    const base = grid();
    const turned = base.transpose(0, 1);
    expect([turned.strides, turned.isContiguous, turned.contiguous().isContiguous]).toEqual([[1, 4], false, true]);
    expect(turned.data()).toEqual(BigInt64Array.from([0n, 4n, 8n, 1n, 5n, 9n, 2n, 6n, 10n, 3n, 7n, 11n]));
    const row = base.select(0, 1);
    row.fill_(1).add_(2).mul_(3);
    expect(base.tolist()).toEqual([
      [0, 1, 2, 3],
      [9, 9, 9, 9],
      [8, 9, 10, 11],
    ]);
    row.copy_(base.select(0, 0)).narrow(0, 0, 2).zero_();
    expect(row.tolist()).toEqual([0, 0, 2, 3]);
    expect(base.clone().zero_().sum().item()).toBe(0);
    expect(base.sum().item()).not.toBe(0);
    expect(tensor([1, 2]).viewAs('int32').tolist()).toEqual([0x3f800000, 0x40000000]);
  }),
);

test('in-place methods return the tensor itself, not another handle', () => {
  using x = zeros([2]);
  const before = liveTensorCount();
  expect(x.add_(1)).toBe(x);
  expect(x.zero_()).toBe(x);
  expect(liveTensorCount()).toBe(before);
});

test(
  'item and printing',
  check(() => {
    expect(tensor([[2.5]]).item()).toBe(2.5);
    expect(() => zeros([2]).item()).toThrow('a tensor of 2 elements has no single item');
    const x = tensor([[1, 2]], { dtype: 'bfloat16' });
    expect(`${x}`).toBe('Tensor([1, 2], bfloat16, cpu, [[1,2]])');
    expect(inspect({ x })).toContain('Tensor([1, 2]');
    expect(`${zeros([100])}`).toBe('Tensor([100], float32, cpu, 100 elements)');
    x.dispose();
    expect(`${x}`).toBe('Tensor(disposed)');
  }),
);

test('shared bytes: no copy, both ways, and alive as long as the tensor', () => {
  let buffer: Float32Array | null = Float32Array.of(1, 2, 3, 4);
  const x = shareBytes(new Uint8Array(buffer.buffer), 'float32', [4]);
  buffer[0] = 10;
  scope(() => expect(x.select(0, 0).item()).toBe(10));
  x.mul_(2);
  expect([...buffer]).toEqual([20, 4, 6, 8]);
  buffer = null;
  globalThis.gc?.();
  // Memory the collector may have reused by now if it were not held.
  const noise = Array.from({ length: 100 }, () => new Float32Array(4).fill(-1));
  expect(x.toNumbers()).toEqual([20, 4, 6, 8]);
  expect(noise.length).toBe(100);
  const view = x.narrow(0, 1, 2);
  x.dispose();
  expect(view.toNumbers()).toEqual([4, 6]);
  view.dispose();
  expect(() => shareBytes(new Uint8Array(9).subarray(1), 'float32', [2])).toThrow(/not aligned/);
});

test('shared bytes stay where they are: no way to transfer them away under the tensor', () => {
  const bytes = Uint8Array.of(1, 2, 3, 4);
  using x = shareBytes(bytes, 'uint8', [4]);
  const { buffer } = bytes as { buffer: ArrayBuffer & { transfer?: () => ArrayBuffer } };
  try {
    structuredClone(buffer, { transfer: [buffer] }); // a copy before Node.js 21, refused since
  } catch {}
  expect(() => buffer.transfer!()).toThrow('a tensor shares this ArrayBuffer');
  bytes[0] = 9;
  expect(x.toNumbers()).toEqual([9, 2, 3, 4]);
});
