import fs from 'node:fs';
import { afterEach, describe, expect, test, vi } from 'vitest';
import {
  AdamW,
  type AdamWOptions,
  clipGradNorm,
  type DType,
  liveTensorBytes,
  liveTensorCount,
  noGrad,
  type Optimizer,
  ones,
  randn,
  scope,
  type Tensor,
  tensor,
  zeros,
} from '../index.ts';

// Numbers of torch.optim.AdamW and torch.nn.utils.clip_grad_norm_: see goldens/make.py.
const read = (name: string) => JSON.parse(fs.readFileSync(new URL(`../../goldens/${name}`, import.meta.url), 'utf8'));
const golden = read('adamw.json');
const clips: { max: number; norm: number; gradients: number[][] }[] = read('clip.json');
const options: AdamWOptions = {
  lr: golden.options.lr,
  betas: golden.options.betas,
  eps: golden.options.eps,
  weightDecay: golden.options.weight_decay,
};
const SHAPES = [[3, 4], [5]];
const baseline = liveTensorCount();

afterEach(() => expect(liveTensorCount()).toBe(baseline));

function leaves(dtype: DType): Tensor[] {
  return golden.start.map((values: number[], i: number) => {
    const leaf = tensor(values, { dtype }).view(SHAPES[i]!).detach();
    leaf.requiresGrad = true;
    return leaf;
  });
}

function setGradients(parameters: Tensor[], step: number): void {
  for (const [i, parameter] of parameters.entries()) {
    const values: number[] | null = golden.gradients[step][i];
    parameter.grad = values && tensor(values, { dtype: parameter.dtype }).view(SHAPES[i]!);
  }
}

function run(optimizer: Optimizer, parameters: Tensor[], from = 0, to = 20): void {
  for (let step = from; step < to; step++) {
    if (step === 10) optimizer.lr = 3e-3;
    scope(() => setGradients(parameters, step));
    optimizer.step();
  }
}

function expectClose(actual: Tensor, expected: number[], tolerance: number): void {
  for (const [i, value] of actual.toNumbers().entries())
    if (!(Math.abs(value - expected[i]!) <= tolerance * (1 + Math.abs(expected[i]!))))
      expect.fail(`element ${i} is ${value}, expected ${expected[i]}`);
}

describe('AdamW', () => {
  // bf16 has 8 bits: a sum in another order may round to the neighbour.
  test.each([
    ['float32', 'float32', {}, 1e-6],
    ['bfloat16_master', 'bfloat16', { masterWeights: true }, 1e-6],
    ['bfloat16_plain', 'bfloat16', {}, 2 ** -8],
  ] as const)('20 steps as PyTorch: %s', (name, dtype, extra, tolerance) => {
    scope(() => {
      const parameters = leaves(dtype);
      using optimizer = new AdamW(parameters, { ...options, ...extra });
      run(optimizer, parameters);
      const { step, tensors } = optimizer.stateDict();
      expect(step).toBe(20);
      for (const [i, parameter] of parameters.entries()) {
        expectClose(parameter, golden[name].parameters[i], tolerance);
        expectClose(tensors.get(`${i}.exp_avg`)!, golden[name].exp_avg[i], tolerance);
        expectClose(tensors.get(`${i}.exp_avg_sq`)!, golden[name].exp_avg_sq[i], tolerance);
        expect(tensors.get(`${i}.step`)!.item()).toBe(golden[name].step[i]);
        expect(tensors.get(`${i}.exp_avg`)!.dtype).toBe(name === 'bfloat16_plain' ? 'bfloat16' : 'float32');
        expect(tensors.has(`${i}.master`)).toBe(name === 'bfloat16_master');
      }
    });
  });

  test('master weights keep steps that bf16 rounds away', () => {
    scope(() => {
      const moved = (masterWeights: boolean) => {
        const parameter = ones([1], { dtype: 'bfloat16', requiresGrad: true });
        using optimizer = new AdamW([parameter], { lr: 1e-4, weightDecay: 0, masterWeights });
        for (let i = 0; i < 100; i++) {
          parameter.grad = ones([1], { dtype: 'bfloat16' });
          optimizer.step();
        }
        return 1 - parameter.item();
      };
      expect(moved(false)).toBe(0);
      expect(moved(true)).toBeCloseTo(0.01, 2);
    });
  });

  test('a saved state continues bit for bit', () => {
    scope(() => {
      for (const masterWeights of [false, true]) {
        const whole = leaves('bfloat16');
        using straight = new AdamW(whole, { ...options, masterWeights });
        run(straight, whole);
        const first = leaves('bfloat16');
        using before = new AdamW(first, { ...options, masterWeights });
        run(before, first, 0, 7);
        const saved = before.stateDict();
        const copy = { step: saved.step, tensors: new Map([...saved.tensors].map(([k, v]) => [k, v.clone()])) };
        const second = first.map((parameter) => {
          const leaf = parameter.detach().clone();
          leaf.requiresGrad = true;
          return leaf;
        });
        using after = new AdamW(second, { ...options, masterWeights });
        after.loadStateDict(copy);
        run(after, second, 7);
        for (const [i, parameter] of second.entries()) expect(parameter.bytes()).toEqual(whole[i]!.bytes());
        for (const [key, value] of after.stateDict().tensors)
          expect(value.bytes()).toEqual(straight.stateDict().tensors.get(key)!.bytes());
        expect(after.stateDict().step).toBe(20);
      }
    });
  });

  test('names of the state, and states that do not fit', () => {
    scope(() => {
      const weight = zeros([2], { requiresGrad: true });
      using optimizer = new AdamW(new Map([['layer.weight', weight]]));
      const { tensors } = optimizer.stateDict();
      expect([...tensors.keys()]).toEqual(['layer.weight.exp_avg', 'layer.weight.exp_avg_sq', 'layer.weight.step']);
      const wrong = (change: (map: Map<string, Tensor>) => void) => {
        const map = new Map(tensors);
        change(map);
        return () => optimizer.loadStateDict({ step: 1, tensors: map });
      };
      expect(wrong((map) => map.delete('layer.weight.step'))).toThrow('the state lacks layer.weight.step');
      expect(wrong((map) => map.set('b.step', ones([])))).toThrow(
        'the state has b.step, which belongs to no parameter',
      );
      expect(wrong((map) => map.set('layer.weight.exp_avg', ones([3])))).toThrow(
        'layer.weight.exp_avg is float32 [3] in the state, float32 [2] here',
      );
      expect(wrong((map) => map.set('layer.weight.exp_avg', ones([2], { dtype: 'float64' })))).toThrow(
        /is float64 \[2\]/,
      );
      expect(optimizer.stateDict().step).toBe(0);
    });
  });

  test('16-bit gradients are widened a few at a time, and all are stepped', () => {
    scope(() => {
      const size = 3 * 2 ** 21; // two fit into a group of 2^24 elements
      const parameters = Array.from({ length: 5 }, () => zeros([size], { dtype: 'bfloat16', requiresGrad: true }));
      using optimizer = new AdamW(parameters, { masterWeights: true });
      for (const parameter of parameters) parameter.grad = ones([size], { dtype: 'bfloat16' });
      const before = liveTensorBytes();
      const during: number[] = [];
      const { copy_ } = parameters[0]!;
      const spy = vi.spyOn(parameters[0]!.constructor.prototype as Tensor, 'copy_').mockImplementation(function (
        this: Tensor,
        source,
      ) {
        during.push(liveTensorBytes() - before);
        return copy_.call(this, source);
      });
      optimizer.step();
      spy.mockRestore();
      expect(during).toEqual([2, 2, 2, 2, 1].map((count) => count * size * 4));
      for (const parameter of parameters) expect(parameter.max().item()).toBeLessThan(0);
    });
  });

  test('state made inside a scope outlives it; zeroGrad drops gradients', () => {
    const parameter = zeros([2], { requiresGrad: true });
    const optimizer = scope(() => new AdamW([parameter]));
    scope(() => {
      parameter.sum().backward();
      optimizer.step();
    });
    expect(parameter.toNumbers()[0]).toBeCloseTo(-1e-3, 6);
    optimizer.zeroGrad();
    expect(parameter.grad).toBeNull();
    optimizer.step();
    expect(parameter.toNumbers()[0]).toBeCloseTo(-1e-3, 6);
    optimizer.dispose();
    parameter.dispose();
  });

  test('bad options and parameter lists', () => {
    scope(() => {
      const parameter = zeros([1]);
      for (const bad of [
        { lr: -1 },
        { lr: Number.NaN },
        { betas: [1, 0.9] as const },
        { eps: -1 },
        { weightDecay: -1 },
      ])
        expect(() => new AdamW([parameter], bad)).toThrow(RangeError);
      expect(() => new AdamW([])).toThrow('there are no parameters');
      expect(() => new AdamW([parameter, parameter])).toThrow('a parameter is listed twice');
    });
  });
});

describe('clipGradNorm', () => {
  function pattern(count: number): number[] {
    return Array.from({ length: count }, (_, i) => ((((i * 7919) % 23) - 11) / 8) * 3);
  }
  function withGradients(...dtypes: DType[]): Tensor[] {
    return [20, 7].map((count, i) => {
      const leaf = zeros([count], { dtype: dtypes[i], requiresGrad: true });
      leaf.grad = tensor(pattern(count), { dtype: dtypes[i] });
      return leaf;
    });
  }

  test.each(clips)('as PyTorch at max $max', ({ max, norm, gradients }) => {
    scope(() => {
      const parameters = [...withGradients('float32', 'float32'), zeros([3], { requiresGrad: true })];
      expect(clipGradNorm(parameters, max)).toBeCloseTo(norm, 4);
      for (const [i, expected] of gradients.entries()) expectClose(parameters[i]!.grad!, expected, 1e-6);
    });
  });

  test('mixed dtypes; a map; no gradients', () => {
    scope(() => {
      const parameters = withGradients('bfloat16', 'float64');
      const norm = clipGradNorm(new Map(parameters.map((parameter, i) => [String(i), parameter])), 0.5);
      expect(norm).toBeCloseTo(clips[0]!.norm, 4);
      expect(parameters.map(({ grad }) => grad!.dtype)).toEqual(['bfloat16', 'float64']);
      expect(clipGradNorm(parameters, 1)).toBeCloseTo(0.5, 2);
      expect(clipGradNorm([zeros([2], { requiresGrad: true })], 1)).toBe(0);
      expect(() => clipGradNorm(parameters, 0)).toThrow(RangeError);
    });
  });

  test('a norm that is not finite is reported and changes nothing', () => {
    scope(() => {
      const [parameter, other] = withGradients('float32', 'float32') as [Tensor, Tensor];
      parameter.grad = tensor([Number.POSITIVE_INFINITY, ...pattern(19)]);
      expect(clipGradNorm([parameter, other], 1)).toBe(Number.POSITIVE_INFINITY);
      expect(other.grad!.toNumbers()).toEqual(pattern(7));
      noGrad(() => randn([1]));
    });
  });
});
