import fs from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import {
  Conv2d,
  Conv3d,
  crossEntropy,
  Dropout,
  type DType,
  Embedding,
  GroupNorm,
  gelu,
  LayerNorm,
  Linear,
  liveTensorCount,
  type Module,
  manualSeed,
  noGrad,
  quickGelu,
  RMSNorm,
  scaledDotProductAttention,
  scope,
  silu,
  skipInit,
  type Tensor,
  tensor,
} from '../index.ts';

// Numbers of PyTorch and transformers: see goldens/make.py, whose `pattern` this is.
const read = (name: string) => JSON.parse(fs.readFileSync(new URL(`../../goldens/${name}`, import.meta.url), 'utf8'));
const golden = read('layers.json');
const rms: Record<'float32' | 'bfloat16', { weight: number[]; x: number[]; y: number[] }> = read('rms-norm.json');
const baseline = liveTensorCount();

afterEach(() => expect(liveTensorCount()).toBe(baseline));

function pattern(...shape: number[]): Tensor {
  const count = shape.reduce((a, b) => a * b, 1);
  return tensor(Float32Array.from({ length: count }, (_, i) => (((i * 7919) % 23) - 11) / 8)).view(shape);
}

function expectClose(actual: Tensor, expected: number[], tolerance = 2e-6): void {
  const values = actual.toNumbers();
  expect(values.length).toBe(expected.length);
  for (const [i, value] of values.entries())
    if (!(Math.abs(value - expected[i]!) <= tolerance * (1 + Math.abs(expected[i]!))))
      expect.fail(`element ${i} is ${value}, expected ${expected[i]}`);
}

/** Puts the pattern into each given parameter and frees the module after the test's body. */
function withWeights<M extends Module>(module: M, weights: Record<string, Tensor>, body: (module: M) => void): void {
  try {
    module.loadStateDict(new Map(Object.entries(weights)));
    body(module);
  } finally {
    module.dispose();
  }
}

describe('layers give the numbers of torch.nn', () => {
  test('Linear', () =>
    scope(() =>
      withWeights(new Linear(5, 4), { weight: pattern(4, 5), bias: pattern(4) }, (linear) =>
        expectClose(linear.forward(pattern(2, 3, 5)), golden.linear),
      ),
    ));

  test('Embedding', () =>
    scope(() =>
      withWeights(new Embedding(3, 4), { weight: pattern(3, 4) }, (embedding) =>
        expectClose(
          embedding.forward(
            tensor(
              [
                [2, 0],
                [1, 2],
              ],
              { dtype: 'int64' },
            ),
          ),
          golden.embedding,
        ),
      ),
    ));

  test('LayerNorm and GroupNorm', () =>
    scope(() => {
      withWeights(new LayerNorm(24, { eps: 1e-6 }), { weight: pattern(24), bias: pattern(24).add(1) }, (norm) =>
        expectClose(norm.forward(pattern(2, 24)), golden.layer_norm),
      );
      withWeights(new GroupNorm(3, 6, { eps: 1e-4 }), { weight: pattern(6), bias: pattern(6).add(1) }, (norm) =>
        expectClose(norm.forward(pattern(2, 6, 4)), golden.group_norm),
      );
    }));

  test('Conv2d and Conv3d with stride, padding, dilation, groups', () =>
    scope(() => {
      const conv2d = new Conv2d(4, 6, [3, 2], { stride: [2, 1], padding: [1, 0], dilation: [1, 2], groups: 2 });
      withWeights(conv2d, { weight: pattern(6, 2, 3, 2), bias: pattern(6) }, (conv) =>
        expectClose(conv.forward(pattern(1, 4, 7, 9)), golden.conv2d),
      );
      const conv3d = new Conv3d(2, 3, [2, 3, 3], { stride: [2, 3, 3], bias: false });
      withWeights(conv3d, { weight: pattern(3, 2, 2, 3, 3) }, (conv) =>
        expectClose(conv.forward(pattern(1, 2, 4, 6, 6)), golden.conv3d),
      );
    }));

  test.each(['float32', 'bfloat16'] as const)('RMSNorm rounds as Qwen2RMSNorm in %s', (dtype) =>
    scope(() => {
      const { weight, x, y } = rms[dtype];
      withWeights(new RMSNorm(40, { dtype }), { weight: tensor(weight, { dtype }) }, (norm) => {
        const result = norm.forward(tensor(x, { dtype }).view([6, 40]));
        expect(result.dtype).toBe(dtype);
        if (dtype === 'float32') return expectClose(result, y, 1e-6);
        // One rounding instead of two changes a quarter of the values; another CPU's order of summation may change one or two.
        const different = result.toNumbers().filter((value, i) => value !== y[i]).length;
        expect(different).toBeLessThanOrEqual(2);
      });
    }),
  );

  test("defaults are PyTorch's initial values, drawn in the same order", () => {
    const made: Record<string, () => Module> = {
      linear: () => new Linear(6, 4),
      conv2d: () => new Conv2d(4, 2, 3, { groups: 2 }),
      embedding: () => new Embedding(5, 3),
    };
    for (const [name, make] of Object.entries(made)) {
      manualSeed(11);
      using module = make();
      for (const [key, value] of module.stateDict()) expectClose(value, golden.init[name][key]);
    }
  });

  test('skipInit draws nothing, also after an error', () => {
    const numbers = (make: () => Linear) => {
      manualSeed(1);
      using first = make();
      using second = new Linear(2, 2);
      return [first.weight.shape, second.weight.toNumbers()];
    };
    const plain = numbers(() => new Linear(2, 2));
    expect(numbers(() => skipInit(() => new Linear(2, 2)))).not.toEqual(plain);
    expect(() =>
      skipInit(() => {
        throw new Error('stop');
      }),
    ).toThrow('stop');
    expect(numbers(() => new Linear(2, 2))).toEqual(plain);
  });

  test('options: dtype, no bias, no affine', () => {
    using linear = new Linear(2, 3, { bias: false, dtype: 'bfloat16' });
    expect([linear.bias, linear.weight.dtype, linear.weight.requiresGrad]).toEqual([null, 'bfloat16', true]);
    using norm = new LayerNorm(4, { affine: false });
    expect(norm.parameters()).toEqual([]);
  });
});

describe('functional', () => {
  test('attention: bool mask with grouped heads and scale, added mask, causal', () =>
    scope(() => {
      const q = pattern(1, 4, 3, 8);
      const k = pattern(1, 2, 5, 8);
      const seen = pattern(3, 5).gt(0);
      seen.narrow(1, 0, 1).fill_(1);
      const grouped = scaledDotProductAttention(q, k, k.flip([2]), { mask: seen, scale: 0.3, enableGqa: true });
      expectClose(grouped, golden.sdpa_gqa_mask, 1e-5);
      const keys = q.narrow(2, 0, 1).expand([1, 4, 5, 8]);
      const values = k.flip([2]).view([1, 1, 2, 5, 8]).expand([1, 2, 2, 5, 8]).reshape([1, 4, 5, 8]);
      expectClose(scaledDotProductAttention(q, keys, values, { mask: pattern(1, 4, 3, 5) }), golden.sdpa_added, 1e-5);
      expectClose(scaledDotProductAttention(q, q.mul(2), q.add(1), { isCausal: true }), golden.sdpa_causal, 1e-5);
    }));

  test('crossEntropy: reductions, ignored labels, smoothing', () =>
    scope(() => {
      const logits = pattern(4, 6);
      const labels = tensor([1, -100, 5, 0], { dtype: 'int64' });
      expectClose(crossEntropy(logits, labels), golden.cross_entropy.mean);
      expectClose(crossEntropy(logits, labels, { reduction: 'sum', labelSmoothing: 0.1 }), golden.cross_entropy.sum);
      const none = crossEntropy(logits, tensor([1, 0, 5, 0], { dtype: 'int64' }), {
        reduction: 'none',
        ignoreIndex: 5,
      });
      expectClose(none, golden.cross_entropy.none);
    }));

  test('activations', () =>
    scope(() => {
      const x = pattern(2, 24);
      expectClose(silu(x), golden.silu);
      expectClose(gelu(x), golden.gelu);
      expectClose(gelu(x, 'tanh'), golden.gelu_tanh);
      expectClose(quickGelu(x), golden.quick_gelu);
    }));

  test('Dropout scales what it keeps, and is the identity outside training', () =>
    scope(() => {
      manualSeed(5);
      const x = tensor(new Float32Array(10_000).fill(3));
      const drop = new Dropout(0.25);
      const values = drop.forward(x).toNumbers();
      expect(new Set(values)).toEqual(new Set([0, 4]));
      expect(values.filter((value) => value === 0).length / values.length).toBeCloseTo(0.25, 1);
      expect(drop.eval().forward(x)).toBe(x);
      expect(() => new Dropout(1.5)).toThrow(RangeError);
    }));

  test.each(['float32', 'bfloat16'] as DType[])('quickGelu keeps %s and a graph', (dtype) =>
    scope(() => {
      const x = tensor([0.5, -2], { dtype, requiresGrad: true });
      const y = quickGelu(x);
      expect(y.dtype).toBe(dtype);
      y.sum().backward();
      expect(x.grad!.dtype).toBe(dtype);
      expect(noGrad(() => quickGelu(x)).requiresGrad).toBe(false);
    }),
  );
});
