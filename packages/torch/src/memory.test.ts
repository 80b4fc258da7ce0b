/** Tensors that are made and freed leave nothing behind. */
import { afterEach, expect, test } from 'vitest';
import { Linear, liveTensorBytes, liveTensorCount, ones, randn, scope, setNumThreads } from './index.ts';

setNumThreads(1); // tensors this small only wait for each other's threads
const baseline = liveTensorCount();

afterEach(() => expect(liveTensorCount()).toBe(baseline));

/** RSS growth in MB over the second half of the rounds: the first half warms allocator pools and compiled code. */
function growth(rounds: number, body: (i: number) => void): number {
  for (let i = 0; i < rounds / 2; i++) body(i);
  const before = process.memoryUsage.rss();
  for (let i = 0; i < rounds / 2; i++) body(i);
  return (process.memoryUsage.rss() - before) / 2 ** 20;
}

// Leaking every tensor of 4 KB in 50,000 rounds would cost 200 MB.
test('100,000 times create and dispose', () => {
  const grown = growth(100_000, () => {
    using a = ones([1024]);
    using b = a.add(1);
    if (b.disposed) throw new Error('freed too early');
  });
  expect(grown).toBeLessThan(30);
  expect(liveTensorBytes()).toBeLessThan(10_000);
});

test('100,000 tensors in scopes', () => {
  const grown = growth(10_000, () =>
    scope(() => {
      let x = ones([1024]);
      for (let i = 0; i < 9; i++) x = x.mul(0.5);
    }),
  );
  expect(grown).toBeLessThan(30);
});

test('graphs and gradients', () => {
  using linear = new Linear(64, 64);
  const grown = growth(6_000, () =>
    scope(() => {
      linear
        .forward(randn([32, 64]))
        .tanh()
        .sum()
        .backward();
      linear.weight.grad = null;
      linear.bias!.grad = null;
    }),
  );
  expect(grown).toBeLessThan(30); // one leaked graph holds at least 16 KB: 3,000 of them 48 MB
});
