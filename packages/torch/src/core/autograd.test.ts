/** Graphs and modes. Gradients of single ops are checked against finite differences in ../gradcheck.test.ts. */
import { afterEach, expect, test } from 'vitest';
import {
  backward,
  call,
  enableGrad,
  grad,
  inferenceMode,
  liveTensorCount,
  noGrad,
  ones,
  scope,
  setNumThreads,
  type Tensor,
  tensor,
  zeros,
} from './index.ts';

setNumThreads(1);
const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const check = (body: () => void) => () => scope(body);
const leaf = (...values: number[]) => tensor(values, { requiresGrad: true });

test(
  'backward adds into .grad of leaves only',
  check(() => {
    const x = leaf(1, 2, 3);
    expect(x.grad).toBeNull();
    const square = x.mul(x);
    expect([x.isLeaf, square.isLeaf, square.requiresGrad]).toEqual([true, false, true]);
    square.sum().backward();
    expect(x.grad!.toNumbers()).toEqual([2, 4, 6]);
    expect(square.grad).toBeNull();
    x.mul(x).backward(tensor([1, 0, -1]));
    expect(x.grad!.toNumbers()).toEqual([4, 4, 0]);
    x.grad = null;
    expect(x.grad).toBeNull();
    x.grad = ones([3]);
    x.sum().backward();
    expect(x.grad!.toNumbers()).toEqual([2, 2, 2]);
  }),
);

test(
  'several outputs at once',
  check(() => {
    const x = leaf(2);
    backward([x.mul(3).sum(), x.mul(x)], [null, tensor([10])]);
    expect(x.grad!.item()).toBe(3 + 40);
  }),
);

test(
  'grad gives gradients without touching .grad',
  check(() => {
    const [x, y, unused] = [leaf(2), leaf(5), leaf(0)];
    const out = x.mul(x).mul(y).sum();
    const [dx, dy] = grad([out], [x, y], { retainGraph: true });
    expect([dx!.item(), dy!.item(), x.grad]).toEqual([20, 4, null]);
    const [none] = grad([out], [unused], { allowUnused: true, retainGraph: true });
    expect(none).toBeNull();
    expect(() => grad([out], [unused])).toThrow(/unused|not to have been used/);
    const [scaled] = grad([x.mul(3)], [x], { gradOutputs: [tensor([7])] });
    expect(scaled!.item()).toBe(21);
  }),
);

test(
  'second derivatives with createGraph',
  check(() => {
    const x = leaf(3);
    const [first] = grad([x.pow(3).sum()], [x], { createGraph: true });
    expect(first!.requiresGrad).toBe(true);
    const [second] = grad([first!.sum()], [x]);
    expect([first!.item(), second!.item()]).toEqual([27, 18]);
  }),
);

test(
  'a graph is used once unless it is retained',
  check(() => {
    const x = leaf(1);
    const out = x.exp().sum();
    grad([out], [x], { retainGraph: true });
    out.backward();
    expect(() => out.backward()).toThrow(/second time/);
  }),
);

test(
  'noGrad, enableGrad and detach',
  check(() => {
    const x = leaf(1);
    const inner = noGrad(() => [x.mul(2), enableGrad(() => x.mul(2)), x.mul(2)] as const);
    expect(inner.map((t) => t.requiresGrad)).toEqual([false, true, false]);
    expect(() => noGrad(() => call('aten::nope', ''))).toThrow();
    expect(x.mul(2).requiresGrad).toBe(true); // restored, after the exception too
    expect(x.detach().requiresGrad).toBe(false);
    noGrad(() => x.add_(1)); // a leaf may be written without a graph
    expect(x.item()).toBe(2);
    expect(() => x.add_(1)).toThrow(/leaf Variable that requires grad/);
  }),
);

test(
  'inferenceMode: no graph, and tensors made inside cannot enter one',
  check(() => {
    const x = leaf(1);
    const made = inferenceMode(() => inferenceMode(() => x.mul(2)));
    expect(made.requiresGrad).toBe(false);
    expect(() => x.mul(made)).toThrow(/[Ii]nference tensors cannot be saved for backward/);
    expect(() =>
      inferenceMode(() => {
        throw new Error('mine');
      }),
    ).toThrow('mine');
    expect(x.mul(2).requiresGrad).toBe(true);
    expect(made.add(1).item()).toBe(3); // still numbers outside
    // Normal tensors can be made in between, without leaving the mode.
    const [normal, back] = inferenceMode(() => [inferenceMode(() => noGrad(() => x.mul(2)), false), x.mul(2)] as const);
    expect(x.mul(normal).requiresGrad).toBe(true);
    expect(() => x.mul(back)).toThrow(/saved for backward/);
  }),
);

test('a graph keeps what it needs after its tensors are disposed', () => {
  const x = leaf(2, 3);
  const out = scope(() => x.mul(x).exp().log().sum());
  expect(liveTensorCount()).toBe(baseline + 2);
  scope(() => {
    const [dx] = grad([out], [x]);
    dx!.toNumbers().forEach((value, i) => {
      expect(value).toBeCloseTo([4, 6][i]!, 4);
    });
  });
  x.dispose();
  out.dispose();
});

test(
  'what cannot be done says why',
  check(() => {
    const whole = zeros([2], { dtype: 'int64' });
    const attempts: [() => unknown, RegExp][] = [
      [() => zeros([1]).sum().backward(), /backward: .*does not require grad/],
      [() => leaf(1, 2).mul(2).backward(), /grad can be implicitly created only for scalar outputs/],
      [
        () =>
          leaf(1, 2)
            .mul(2)
            .backward(zeros([3])),
        /backward: .*(shape|size)/,
      ],
      [() => (whole.requiresGrad = true), /Tensor.requiresGrad: .*floating point/],
      [() => (leaf(1).mul(2).requiresGrad = false), /Tensor.requiresGrad: .*leaf/],
      [() => (leaf(1).grad = zeros([2])), /Tensor.grad: a gradient has its tensor's shape/],
      [() => (leaf(1).grad = 3 as unknown as Tensor), /Tensor.grad: expected a Tensor, got a number/],
      [() => grad([zeros([1])], [leaf(1)]), /grad: .*does not require grad/],
    ];
    for (const [attempt, message] of attempts) expect(attempt).toThrow(message);
  }),
);
