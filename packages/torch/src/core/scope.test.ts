/** Who frees a tensor, and when. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, describe, expect, test } from 'vitest';
import {
  empty,
  keep,
  liveTensorBytes,
  liveTensorCount,
  ones,
  scope,
  setNumThreads,
  type Tensor,
  zeros,
} from './index.ts';

setNumThreads(1);
setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

/** Collects until `done`, letting finalisers run in between. */
async function collectUntil(done: () => boolean): Promise<void> {
  for (let i = 0; i < 50 && !done(); i++) {
    collectGarbage();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('scope', () => {
  test('frees what was made inside, but not what was made outside', () => {
    using outside = zeros([2]);
    let inside: Tensor | undefined;
    const sum = scope(() => {
      inside = outside.add(1);
      expect(liveTensorCount()).toBe(baseline + 2);
      return inside.sum().item();
    });
    expect(sum).toBe(2);
    expect([inside!.disposed, outside.disposed]).toEqual([true, false]);
    expect(liveTensorCount()).toBe(baseline + 1);
  });

  test('returned tensors live on, in arrays, objects, maps and sets', () => {
    const result = scope(() => {
      zeros([9]);
      return {
        one: ones([1]),
        list: [ones([2]), [ones([3])]],
        map: new Map([['k', ones([4])]]),
        set: new Set([ones([5])]),
        none: null,
      };
    });
    const all = [result.one, ...(result.list.flat() as Tensor[]), ...result.map.values(), ...result.set];
    expect(all.map((t) => t.numel)).toEqual([1, 2, 3, 4, 5]);
    expect(liveTensorCount()).toBe(baseline + 5);
    for (const t of all) t.dispose();
  });

  test('a tensor hidden in a class instance is not found', () => {
    class Box {
      constructor(readonly inner: Tensor) {}
    }
    expect(scope(() => new Box(zeros([1]))).inner.disposed).toBe(true);
  });

  test('nested: a result belongs to the enclosing scope', () => {
    let middle: Tensor | undefined;
    const outer = scope(() => {
      middle = scope(() => zeros([1]));
      expect(middle.disposed).toBe(false);
      return scope(() => scope(() => middle!.add(1)));
    });
    expect([middle!.disposed, outer.disposed]).toEqual([true, false]);
    outer.dispose();
  });

  test('an exception frees everything and passes through', () => {
    const inside: Tensor[] = [];
    const failure = new Error('mine');
    expect(() =>
      scope(() => {
        inside.push(zeros([1]));
        scope(() => {
          inside.push(zeros([1]));
          throw failure;
        });
      }),
    ).toThrow(failure);
    expect(inside.map((t) => t.disposed)).toEqual([true, true]);
    using after = zeros([1]); // no scope is left open
    expect(scope(() => after.disposed)).toBe(false);
    expect(after.disposed).toBe(false);
  });

  test('a promise is refused, and what was made before is freed', () => {
    let inside: Tensor | undefined;
    expect(() =>
      scope(async () => {
        inside = zeros([1]);
      }),
    ).toThrow(/synchronous/);
    expect(inside!.disposed).toBe(true);
  });

  test('more tensors than fit one release call', () => {
    scope(() => {
      for (let i = 0; i < 3000; i++) zeros([1]);
      expect(liveTensorCount()).toBe(baseline + 3000);
    });
  });
});

describe('keep', () => {
  test('moves a tensor out of all scopes', () => {
    let kept: { a: Tensor; b: Tensor[] } | undefined;
    scope(() => {
      scope(() => {
        kept = keep({ a: zeros([1]), b: [ones([1])] });
      });
      expect(kept!.a.disposed).toBe(false);
    });
    expect([kept!.a.disposed, kept!.b[0]!.disposed]).toEqual([false, false]);
    kept!.a.dispose();
    kept!.b[0]!.dispose();
  });

  test('also one of an enclosing scope', () => {
    const made: Tensor[] = [];
    scope(() => {
      made.push(zeros([1]), zeros([1]));
      scope(() => scope(() => keep(made[0])));
    });
    expect(made.map((t) => t.disposed)).toEqual([false, true]);
    made[0]!.dispose();
  });

  test('changes nothing outside scopes, for disposed tensors, and when done twice', () => {
    using a = keep(zeros([1]));
    const spent = zeros([1]);
    spent.dispose();
    scope(() => {
      keep([a, spent]);
      keep(keep(a));
    });
    expect([a.disposed, spent.disposed]).toEqual([false, true]);
    expect(keep(5)).toBe(5);
  });
});

test('dispose twice, and using, are harmless', () => {
  const x = zeros([4]);
  const y = x.view([2, 2]);
  x.dispose();
  x.dispose();
  x[Symbol.dispose]();
  expect(y.toNumbers()).toEqual([0, 0, 0, 0]); // a view keeps the memory
  y.dispose();
  // The freed handles are given out again: disposing the old objects must not touch their new owners.
  using first = ones([1]);
  using second = ones([1]);
  x.dispose();
  y.dispose();
  expect([first.item(), second.item()]).toEqual([1, 1]);
  scope(() => zeros([1]).dispose());
});

test('tensors outside scopes are freed by the garbage collector', async () => {
  (() => {
    for (let i = 0; i < 100; i++) zeros([10]);
  })();
  const made = liveTensorCount();
  expect(made).toBeGreaterThan(baseline);
  await collectUntil(() => liveTensorCount() <= baseline);
  expect(liveTensorCount()).toBe(baseline);
});

test('a disposed tensor is not freed a second time by the collector', async () => {
  (() => {
    for (let i = 0; i < 100; i++) zeros([10]).dispose();
  })();
  const held = Array.from({ length: 100 }, () => ones([10])); // takes over the freed handles
  await collectUntil(() => false);
  expect(held.every((t) => t.sum().item() === 10)).toBe(true);
  await collectUntil(() => liveTensorCount() <= baseline + 100);
  for (const t of held) t.dispose();
});

test('so does one that makes graphs, whose results are saved for the way back', async () => {
  using weight = ones([2 ** 20], { requiresGrad: true });
  const before = process.memoryUsage.rss();
  let most = 0;
  (() => {
    for (let i = 0; i < 100; i++) {
      weight.exp().sigmoid().tanh().sqrt();
      most = Math.max(most, process.memoryUsage.rss() - before);
    }
  })();
  expect(most).toBeLessThan(2 ** 30); // all of it would be 1.7 GB
  await collectUntil(() => liveTensorCount() === baseline + 1);
});

test('bytes are counted once for a tensor and its views', () => {
  const before = liveTensorBytes();
  const big = zeros([2 ** 20]);
  const view = big.view([2, -1]);
  expect(liveTensorBytes() - before).toBe(2 ** 22);
  view.dispose();
  big.dispose();
  expect(liveTensorBytes()).toBe(before);
});

test('a tensor of the device meta counts as no memory', () => {
  const before = liveTensorBytes();
  using big = empty([2 ** 40], { device: 'meta' });
  expect(big.nbytes).toBe(2 ** 42);
  expect(liveTensorBytes()).toBe(before);
});

test('a synchronous loop outside any scope frees as it goes', async () => {
  let most = 0;
  (() => {
    for (let i = 0; i < 400; i++) {
      empty([2 ** 20]).add(1);
      most = Math.max(most, liveTensorBytes());
    }
  })();
  expect(most).toBeLessThan(2 ** 30); // all of it would be 3.1 GB
  await collectUntil(() => liveTensorCount() === baseline);
});

// The objects are tiny for V8, so only the bytes reported to it make it collect; nothing here asks for a collection.
test('V8 hears of the memory', async () => {
  const size = 32 * 2 ** 20;
  let most = 0;
  for (let i = 0; i < 100; i++) {
    empty([size / 4]); // never written, so never more than address space
    most = Math.max(most, liveTensorBytes());
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(most).toBeLessThan(60 * size);
  await collectUntil(() => liveTensorCount() <= baseline);
});

test('bytes that are alive are those of the memory, whoever shares it', () => {
  const before = liveTensorBytes();
  const bytes = () => liveTensorBytes() - before;
  scope(() => {
    const base = zeros([1000]);
    const view = base.narrow(0, 0, 10);
    expect(bytes()).toBe(4000);
    base.dispose();
    expect(bytes()).toBe(4000);
    const weight = zeros([500]);
    weight.requiresGrad = true;
    weight.mul(2).sum().backward();
    view.dispose();
    expect(bytes()).toBeGreaterThanOrEqual(4000); // the weight and its gradient
  });
  expect(bytes()).toBe(0);
});
