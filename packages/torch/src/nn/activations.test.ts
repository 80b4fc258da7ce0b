import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fromBytes, grad, liveTensorCount, manualSeed, noGrad, randn, scope, type Tensor } from '../core/index.ts';
import * as ops from '../ops.gen.ts';
import { quickGelu, scaledSoftmax, siluMul } from './functional.ts';

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
  manualSeed(5);
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

const inScope = (body: () => void) => noGrad(() => scope(body));

/** Every number that bfloat16 has: 65,536, with both infinities and all NaNs. */
const everyNumber = () =>
  fromBytes(new Uint8Array(Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits).buffer), 'bfloat16', [2 ** 16]);

/** The processor's instruction that rounds to bfloat16 makes numbers below 2^-126 zero, factors of the result among them. */
const SMALLEST = 2 ** -120;

/**
 * Where the exponential's last places are other ones, a result that lies between two numbers of bfloat16 may be rounded to the other one.
 * Expects all others to be equal, NaN among them.
 */
function expectRoundedAlike(got: Tensor, wanted: Tensor, allowed: number) {
  const [ours, theirs] = [got, wanted].map((x) =>
    x.toNumbers().map((value) => (Math.abs(value) < SMALLEST ? 0 : value)),
  ) as [number[], number[]];
  const others = ours.flatMap((value, i) => (Object.is(value, theirs[i]) ? [] : [[value, theirs[i]!] as const]));
  for (const [value, other] of others) expect(Math.abs(value - other) / Math.abs(other)).toBeLessThanOrEqual(2 ** -7);
  expect(others.length).toBeLessThanOrEqual(allowed);
}

const composedGelu = (x: Tensor) => x.mul(ops.sigmoid(x.mul(1.702)));

describe('quickGelu', () => {
  test('of every number that bfloat16 has', () =>
    inScope(() => expectRoundedAlike(quickGelu(everyNumber()), composedGelu(everyNumber()), 16)));

  test.each([1, 15, 17, 70_001])('%i numbers', (count) =>
    inScope(() => {
      const x = randn([count]).mul(4).to('bfloat16');
      expectRoundedAlike(quickGelu(x), composedGelu(x), count / 1000);
    }),
  );

  test('strided, float32 and float64 are ATen to the bit', () =>
    inScope(() => {
      const strided = randn([6, 4]).to('bfloat16').transpose(0, 1);
      for (const x of [strided, randn([9]), randn([9]).to('float64')])
        expect(quickGelu(x).toNumbers()).toEqual(composedGelu(x).toNumbers());
    }));
});

describe('siluMul', () => {
  const composed = (gate: Tensor, up: Tensor) => ops.silu(gate).mul(up);

  test('of every number that bfloat16 has', () =>
    inScope(() => {
      const up = randn([2 ** 16]).to('bfloat16');
      expectRoundedAlike(siluMul(everyNumber(), up), composed(everyNumber(), up), 16);
    }));

  test('inside a graph it has gradients', () =>
    scope(() => {
      const [gate, up] = [randn([20]), randn([20])].map((x) => x.to('bfloat16')) as [Tensor, Tensor];
      for (const x of [gate, up]) x.requiresGrad = true;
      const [ours, theirs] = [siluMul, composed].map((gated) => grad([gated(gate, up).sum()], [gate, up]));
      expect(ours!.map((x) => x!.toNumbers())).toEqual(theirs!.map((x) => x!.toNumbers()));
    }));

  test('shapes that differ are refused', () =>
    inScope(() => expect(() => siluMul(randn([2, 3]), randn([3]))).toThrow('gate [2, 3] and up [3]')));
});

describe('scaledSoftmax', () => {
  const composed = (x: Tensor, scale: number) => x.mul(scale).softmax(-1);

  test.each([
    [1, 1],
    [3, 16],
    [40, 37],
    [300, 400],
  ])('%i rows of %i', (rows, size) =>
    inScope(() => {
      const x = randn([rows, size]).mul(20).to('bfloat16');
      const [got, wanted] = [scaledSoftmax(x, 0.11), composed(x, 0.11)];
      expectRoundedAlike(got, wanted, (rows * size) / 100);
    }),
  );

  test('columns at minus infinity weigh nothing; a row of nothing else is NaN', () =>
    inScope(() => {
      const x = randn([2, 20]).to('bfloat16');
      const hidden = x.maskedFill(ops.arange(20).ge(5), Number.NEGATIVE_INFINITY);
      expect(scaledSoftmax(hidden, 2).slice(1, 5).toNumbers()).toEqual(Array(30).fill(0));
      expectRoundedAlike(scaledSoftmax(hidden, 2), composed(hidden, 2), 0);
      const nothing = x.maskedFill(ops.arange(20).ge(0), Number.NEGATIVE_INFINITY);
      expect(scaledSoftmax(nothing, 2).toNumbers()).toEqual(Array(40).fill(Number.NaN));
    }));

  test('float32 is ATen to the bit', () =>
    inScope(() => {
      const x = randn([4, 5]);
      expect(scaledSoftmax(x, 0.3).toNumbers()).toEqual(composed(x, 0.3).toNumbers());
    }));
});
