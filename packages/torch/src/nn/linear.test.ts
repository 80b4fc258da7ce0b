import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  enableGrad,
  liveTensorCount,
  manualSeed,
  noGrad,
  randn,
  scope,
  type Tensor,
  TorchError,
} from '../core/index.ts';
import * as ops from '../ops.gen.ts';
import { type LinearKernel, linear } from './functional.ts';
import { Linear } from './linear.ts';

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
  manualSeed(7);
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

/** Kernels this CPU has, best first. */
const kernels = (['amx', 'avx512_bf16', 'avx2', 'aten'] as const).filter((kernel) =>
  noGrad(() =>
    scope(() => {
      try {
        linear(randn([1, 32]).to('bfloat16'), randn([16, 32]).to('bfloat16'), null, kernel);
        return true;
      } catch {
        return false;
      }
    }),
  ),
);

/** Largest distance from the exact result, in roundings to bfloat16 of the larger of the result and a typical one. */
function roundings(x: Tensor, weight: Tensor, bias: Tensor | null, got: Tensor): number {
  const exact = ops.linear(x.to('float64'), weight.to('float64'), bias?.to('float64'));
  const typical = Math.sqrt(weight.shape[1]!);
  const scale = ops.clamp_min(exact.abs(), 0.1 * typical).mul(2 ** -8);
  return ops.max(got.to('float64').sub(exact).abs().div(scale)).item();
}

const SHAPES = [
  [1536, 1536],
  [256, 1536],
  [100, 8960],
  [80, 8960],
  [16, 32],
  [255, 1531],
  [25, 130],
  [7, 30],
  [1, 2],
] as const;

describe.each([...kernels, undefined])('kernel %s', (kernel: LinearKernel | undefined) => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 33, 49, 64, 80, 96, 97, 250, 512, 601])(
    '%i rows round once',
    (rows) => {
      if (kernel === 'avx2' && rows > 1) return;
      if (kernel === 'avx512_bf16' && rows > 96) return;
      for (const [outputs, inputs] of SHAPES) {
        if (kernel === 'amx' && (inputs % 32 || outputs % 16)) continue;
        if (kernel === 'avx2' && inputs % 2) continue;
        for (const biased of [false, true])
          noGrad(() =>
            scope(() => {
              const x = randn([rows, inputs]).to('bfloat16');
              const weight = randn([outputs, inputs]).to('bfloat16');
              const bias = biased ? randn([outputs]).mul(10).to('bfloat16') : null;
              const got = linear(x, weight, bias, kernel);
              expect(got.shape).toEqual([rows, outputs]);
              expect(got.dtype).toBe('bfloat16');
              expect(roundings(x, weight, bias, got), `${outputs}x${inputs}, bias ${biased}`).toBeLessThan(1.1);
            }),
          );
      }
    },
  );
});

test('rows with leading sizes, rows that are not contiguous', () => {
  noGrad(() =>
    scope(() => {
      const weight = randn([10, 64]).to('bfloat16');
      const x = randn([2, 64, 3]).to('bfloat16').transpose(1, 2);
      const got = linear(x, weight);
      expect(got.shape).toEqual([2, 3, 10]);
      expect(roundings(x, weight, null, got)).toBeLessThan(1.1);
      const one = randn([64]).to('bfloat16');
      expect(linear(one, weight).shape).toEqual([10]);
    }),
  );
});

test('a product inside a graph has its gradients', () => {
  scope(() => {
    const layer = new Linear(64, 16, { dtype: 'bfloat16' });
    const x = randn([2, 64]).to('bfloat16');
    const y = enableGrad(() => layer.forward(x));
    expect(y.requiresGrad).toBe(true);
    y.sum().backward();
    using wanted = x.to('float32').sum([0]);
    using got = layer.weight.grad!.select(0, 3).to('float32');
    expect(ops.max(got.sub(wanted).abs()).item()).toBeLessThan(0.02);
    layer.weight.grad!.dispose();
    layer.bias!.grad!.dispose();
    layer.dispose();
  });
});

test('other dtypes and many rows are aten::linear, to the bit', () => {
  noGrad(() =>
    scope(() => {
      for (const [dtype, rows] of [
        ['float32', 1],
        ['bfloat16', 200],
        ['float64', 3],
      ] as const) {
        const [x, weight] = [randn([rows, 96]).to(dtype), randn([8, 96]).to(dtype)];
        expect(linear(x, weight).toNumbers()).toEqual(ops.linear(x, weight).toNumbers());
      }
    }),
  );
});

test('zero rows, wrong sizes, unknown kernels', () => {
  noGrad(() =>
    scope(() => {
      const weight = randn([8, 32]).to('bfloat16');
      expect(linear(randn([0, 32]).to('bfloat16'), weight).shape).toEqual([0, 8]);
      expect(() => linear(randn([1, 31]).to('bfloat16'), weight)).toThrow(TorchError);
      expect(() => linear(randn([1, 32]), weight)).toThrow(TorchError);
      expect(() => linear(randn([1, 32]).to('bfloat16'), weight, null, 'fastest' as never)).toThrow(
        /there is no kernel 'fastest'/,
      );
      for (const kernel of kernels)
        if (kernel !== 'aten')
          expect(() => linear(randn([100, 32]).to('bfloat16'), weight, null, kernel)).toThrow(/not for the kernel/);
    }),
  );
});

test('infinities and NaN come through', () => {
  noGrad(() =>
    scope(() => {
      const weight = randn([4, 32]).to('bfloat16');
      for (const value of [Number.POSITIVE_INFINITY, Number.NaN]) {
        const x = randn([1, 32]).to('bfloat16');
        x.select(1, 3).fill_(value);
        for (const number of linear(x, weight).toNumbers()) expect(Number.isFinite(number)).toBe(false);
      }
    }),
  );
});
