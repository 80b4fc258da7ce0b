/** Gradients of the ops that models use, against central finite differences in float64. */
import { afterEach, expect, test } from 'vitest';
import {
  cat,
  checkpoint,
  crossEntropy,
  gelu,
  grad,
  liveTensorCount,
  manualSeed,
  noGrad,
  quickGelu,
  randn,
  scaledDotProductAttention,
  scope,
  setNumThreads,
  silu,
  stack,
  type Tensor,
  tensor,
  where,
} from './index.ts';
import * as ops from './ops.gen.ts';

setNumThreads(1); // tensors this small only wait for each other's threads
const baseline = liveTensorCount();

afterEach(() => expect(liveTensorCount()).toBe(baseline));

const STEP = 1e-5;
const TOLERANCE = 1e-7;

type Fn = (...inputs: Tensor[]) => Tensor;

/** d(sum of fn(inputs) * fixed random weights) / d(every element of every input), from two evaluations each. */
function finiteDifferences(fn: Fn, inputs: Tensor[], weights: Tensor): number[][] {
  const value = () =>
    scope(() =>
      noGrad(() =>
        fn(...inputs)
          .mul(weights)
          .sum()
          .item(),
      ),
    );
  return inputs.map((input) =>
    scope(() => {
      const flat = input.detach().view([-1]);
      return flat.toNumbers().map((x, i) => {
        const at = flat.narrow(0, i, 1);
        at.fill_(x + STEP);
        const above = value();
        at.fill_(x - STEP);
        const below = value();
        at.fill_(x);
        return (above - below) / (2 * STEP);
      });
    }),
  );
}

function check(fn: Fn, ...shapes: number[][]): void {
  scope(() => {
    manualSeed(9);
    const inputs = shapes.map((shape) => randn(shape, { dtype: 'float64', requiresGrad: true }));
    const output = fn(...inputs);
    const weights = randn(output.shape, { dtype: 'float64' });
    const analytic = grad([output], inputs, { gradOutputs: [weights] });
    const numeric = finiteDifferences(fn, inputs, weights);
    for (const [i, expected] of numeric.entries()) {
      expect(expected.some((value) => Math.abs(value) > 1e-3)).toBe(true); // the check would pass on nothing but zeros
      const actual = analytic[i]!.toNumbers();
      for (const [j, value] of expected.entries())
        if (!(Math.abs(value - actual[j]!) <= TOLERANCE * (1 + Math.abs(value))))
          expect.fail(`input ${i}, element ${j}: the gradient is ${actual[j]}, finite differences give ${value}`);
    }
  });
}

const ids = (values: number[]) => tensor(values, { dtype: 'int64' });
const mask = (rows: number[][]) => tensor(rows).gt(0);

const cases: [name: string, fn: Fn, ...shapes: number[][]][] = [
  ['add', (a, b) => a.add(b!), [3, 4], [4]],
  ['add with alpha', (a, b) => a!.add(b!, -2.5), [3], [3]],
  ['sub', (a, b) => a!.sub(b!), [3, 4], [3, 1]],
  ['mul', (a, b) => a!.mul(b!), [3, 4], [3, 1]],
  ['div', (a, b) => a!.div(b!.exp()), [3, 4], [4]],
  ['pow', (a) => a!.pow(3), [5]],
  ['exp, log, sqrt', (a) => a!.exp().add(1).log().sqrt(), [5]],
  ['rsqrt, tanh', (a) => a!.exp().rsqrt().tanh(), [5]],
  ['sum and mean', (a) => a!.sum(0).mul(a!.mean([1], true)), [3, 3]],
  ['cumsum', (a) => a!.cumsum(1), [2, 3]],
  ['matmul', (a, b) => a!.matmul(b!), [2, 3, 4], [4, 5]],
  ['matmul in batches', (a, b) => a!.matmul(b!), [2, 3, 4], [2, 4, 2]],
  ['linear', (x, w, b) => ops.linear(x!, w!, b!), [2, 3, 4], [5, 4], [5]],
  ['linear without bias', (x, w) => ops.linear(x!, w!), [2, 4], [5, 4]],
  ['embedding', (w) => ops.embedding(w!, ids([2, 0, 2, 3])), [4, 3]],
  ['layer_norm', (x, w, b) => ops.layer_norm(x!, [6], w!, b!, 1e-5), [3, 6], [6], [6]],
  ['rms_norm', (x, w) => ops.rms_norm(x!, [6], w!, 1e-6), [3, 6], [6]],
  ['rms_norm without weight', (x) => ops.rms_norm(x!, [6], null, 1e-6), [3, 6]],
  ['group_norm', (x, w, b) => ops.group_norm(x!, 2, w!, b!, 1e-5), [2, 4, 3, 2], [4], [4]],
  ['softmax', (x) => x!.softmax(-1), [3, 5]],
  ['log_softmax', (x) => x!.logSoftmax(1), [3, 5]],
  ['cross_entropy', (x) => crossEntropy(x!, ids([1, -100, 4])), [3, 5]],
  ['cross_entropy sum, smoothed', (x) => crossEntropy(x!, ids([1, 2, 0]), { reduction: 'sum', labelSmoothing: 0.1 }), [3, 5]],
  ['cross_entropy none', (x) => crossEntropy(x!, ids([1, -100, 4]), { reduction: 'none' }), [3, 5]],
  ['nll_loss', (x) => ops.nll_loss(x!.logSoftmax(1), ids([1, -100, 4])), [3, 5]],
  ['silu', (x) => silu(x!), [7]],
  ['gelu', (x) => gelu(x!), [7]],
  ['gelu tanh', (x) => gelu(x!, 'tanh'), [7]],
  ['quick gelu', (x) => quickGelu(x!), [7]],
  ['sigmoid', (x) => x!.sigmoid(), [7]],
  ['attention', (q, k, v) => scaledDotProductAttention(q!, k!, v!), [1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 5, 4]],
  [
    'attention with a bool mask',
    (q, k, v) => scaledDotProductAttention(q!, k!, v!, { mask: mask([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1]]) }),
    [2, 2, 3, 4], [2, 2, 4, 4], [2, 2, 4, 4],
  ],
  [
    'attention with an added mask that is trained',
    (q, k, v, m) => scaledDotProductAttention(q!, k!, v!, { mask: m! }),
    [1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 5, 4], [1, 2, 3, 5],
  ],
  [
    'attention causal, grouped, scaled',
    (q, k, v) => scaledDotProductAttention(q!, k!, v!, { isCausal: true, enableGqa: true, scale: 0.4 }),
    [1, 4, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4],
  ],
  ['conv2d', (x, w, b) => ops.conv2d(x!, w!, b!, [2, 1], [1, 1]), [1, 2, 5, 4], [3, 2, 3, 2], [3]],
  ['conv2d grouped', (x, w) => ops.conv2d(x!, w!, null, 1, 0, 1, 2), [1, 4, 4, 4], [2, 2, 2, 2]],
  ['conv3d', (x, w, b) => ops.conv3d(x!, w!, b!, [2, 2, 2]), [2, 2, 2, 4, 4], [3, 2, 2, 2, 2], [3]],
  ['gather', (x) => x!.gather(1, tensor([[0, 0], [2, 1]], { dtype: 'int64' })), [2, 3]],
  ['scatter', (x, s) => x!.scatter(1, tensor([[0, 2], [2, 1]], { dtype: 'int64' }), s!), [2, 3], [2, 2]],
  ['index_select', (x) => x!.indexSelect(0, ids([2, 2, 0])), [3, 2]],
  ['index_put', (x, v) => ops.index_put(x!, [ids([2, 0])] as never, v!), [3, 2], [2, 2]],
  ['cat', (a, b) => cat([a!, b!, a!], 1), [2, 3], [2, 1]],
  ['stack', (a, b) => stack([a!, b!], 1), [2, 3], [2, 3]],
  ['slice', (x) => x!.slice(1, 1, null, 2), [2, 5]],
  ['narrow and select', (x) => x!.narrow(0, 1, 2).select(1, -1), [3, 2]],
  ['where', (a, b) => where(mask([[1, 0, 1], [0, 0, 1]]), a!, b!), [2, 3], [2, 3]],
  ['masked_fill', (x) => x!.maskedFill(mask([[1, 0, 1], [0, 0, 1]]), 7), [2, 3]],
  ['topk values', (x) => x!.topk(2)[0], [3, 5]],
  ['permute, transpose, reshape', (x) => x!.permute([2, 0, 1]).transpose(0, 1).reshape([4, 6]).mul(x!.reshape([4, 6])), [4, 2, 3]],
  ['expand and repeat_interleave', (x) => x!.expand([2, 3]).repeatInterleave(2, 0).mul(x!.exp()), [1, 3]],
  ['roll and flip', (x) => x!.roll(1, 0).flip([0]).mul(x!), [4]],
]; // biome-ignore format: a table

test.each(cases)('%s', (_, fn, ...shapes) => check(fn, ...shapes));

test('checkpointed blocks', () => {
  scope(() => {
    manualSeed(3);
    const [x, w] = [randn([2, 3], { dtype: 'float64', requiresGrad: true }), randn([3, 3], { dtype: 'float64', requiresGrad: true })]; // biome-ignore format: one line
    const block = (y: Tensor) => y.matmul(w).tanh();
    const loss = (y: Tensor) => y.pow(2).sum();
    const numeric = finiteDifferences(() => loss(block(block(x))), [x, w], tensor(1, { dtype: 'float64' }));
    const first = checkpoint(block, [x]);
    const second = checkpoint(block, [first.output], { needsGrad: [true] });
    const last = second.output.detach();
    last.requiresGrad = true;
    loss(last).backward();
    const [atFirst] = second.backward(last.grad!);
    const [atInput] = first.backward(atFirst!);
    x.grad = atInput!;
    for (const call of [first, second]) call.dispose();
    for (const [i, leaf] of [x, w].entries())
      for (const [j, value] of leaf.grad!.toNumbers().entries()) expect(value).toBeCloseTo(numeric[i]![j]!, 6);
  });
});

test('the check itself sees a wrong gradient', () => {
  // exp with its derivative cut off in one factor: the value is right, the gradient is not.
  expect(() => check((x) => x!.exp().mul(x!.detach()), [3])).toThrow(/finite differences give/);
});
