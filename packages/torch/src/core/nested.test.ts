/** Elements that a dtype cannot hold are refused by name. */
import { afterEach, expect, test } from 'vitest';
import { liveTensorCount, scope, TorchError, tensor } from './index.ts';

const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const any = (value: unknown) => value as never;
const long = (...values: number[]) => tensor(values, { dtype: 'int64' });
const cyclic = () => {
  const array: unknown[] = [];
  array.push(array);
  return array;
};
/** 2^levels elements out of few arrays. */
const doubled = (levels: number) => {
  let array: unknown = 0;
  for (let i = 0; i < levels; i++) array = [array, array];
  return array;
};

/** What is wrong, the call, the function it must name, and what the message must say. */
const TABLE: [string, () => unknown, string, RegExp][] = [
  ['an array that holds itself', () => tensor(any(cyclic())), 'tensor', /nested more than 64 deep/],
  ['an array that holds itself later', () => tensor(any([1, cyclic()])), 'tensor', /not rectangular/],
  ['more elements than memory', () => tensor(any(doubled(50))), 'tensor', /1125899906842624 elements do not fit/],
  ['a bigint over int64', () => tensor([2n ** 64n]), 'tensor', /^tensor: 18446744073709551616 does not fit int64/],
  ['a number over int64', () => long(2 ** 63), 'tensor', /9223372036854776000 does not fit int64/],
  [
    'a number over uint8',
    () => tensor([300, -1], { dtype: 'uint8' }),
    'tensor',
    /^tensor: 300 does not fit uint8.* 0 to 255/,
  ],
  ['a number below uint8', () => tensor([-1], { dtype: 'uint8' }), 'tensor', /-1 does not fit uint8/],
  ['a number over int8', () => tensor([[1], [128n]], { dtype: 'int8' }), 'tensor', /128 does not fit int8/],
  ['a number over int16', () => tensor([32768], { dtype: 'int16' }), 'tensor', /32768 does not fit int16/],
  [
    'a number over int32',
    () => tensor([-(2 ** 31) - 1], { dtype: 'int32' }),
    'tensor',
    /-2147483649 does not fit int32/,
  ],
  [
    'a fraction as int32',
    () => tensor([1, 0.5], { dtype: 'int32' }),
    'tensor',
    /0.5 is no whole number, as int32 needs/,
  ],
  ['a fraction among bigints', () => tensor([1n, 0.5]), 'tensor', /0.5 is no whole number, as int64 needs/],
  ['not a number as int64', () => long(Number.NaN), 'tensor', /NaN is no whole number, as int64 needs/],
  ['a string as element', () => tensor(any(['a'])), 'tensor', /^tensor: "a" is no element of a float32 tensor/],
  [
    'a number in a string',
    () => tensor(any([1, '2']), { dtype: 'int64' }),
    'tensor',
    /"2" is no element of a int64 tensor/,
  ],
  ['null as element', () => tensor(any([null])), 'tensor', /^tensor: null is no element of a float32 tensor/],
  ['null as boolean', () => tensor(any([true, null])), 'tensor', /null is no element of a bool tensor/],
  ['a hole as element', () => tensor(new Array(2)), 'tensor', /undefined is no element of a float32 tensor/],
  ['an object as element', () => tensor(any([{}])), 'tensor', /an object is no element/],
  ['a scalar that is none', () => tensor(any('7')), 'tensor', /"7" is no element of a float32 tensor/],
  ['elements of an unknown dtype', () => tensor([1], { dtype: any('float3') }), 'fromBytes', /unknown dtype "float3"/],
];

test.each(TABLE)('%s', (_, attempt, name, message) => {
  let error: unknown;
  try {
    attempt();
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(TorchError);
  expect((error as TorchError).op).toBe(name);
  expect((error as TorchError).message).toMatch(message);
});

test('elements keep their values in every dtype', () =>
  scope(() => {
    for (const [dtype, low, high] of [
      ['uint8', 0, 255],
      ['int8', -128, 127],
      ['int16', -32768, 32767],
      ['int32', -(2 ** 31), 2 ** 31 - 1],
      ['int64', -(2 ** 53), 2 ** 53],
      ['float64', -1e300, 2 ** 53 - 1],
      ['bfloat16', -256, 1.5],
    ] as const) {
      const x = tensor([[low], [high]], { dtype });
      expect([x.dtype, x.tolist()]).toEqual([dtype, [[low], [high]]]);
    }
    expect(tensor([2n ** 63n - 1n, -(2n ** 63n)]).data()).toEqual(BigInt64Array.of(2n ** 63n - 1n, -(2n ** 63n)));
    expect(tensor([0.5, 0, 2], { dtype: 'bool' }).toNumbers()).toEqual([1, 0, 1]);
    expect(tensor([1, true, 3n]).toNumbers()).toEqual([1, 1, 3]);
    expect(tensor([[], []]).shape).toEqual([2, 0]);
  }));
