import { afterEach, describe, expect, test } from 'vitest';
import {
  type CheckpointedCall,
  checkpoint,
  Dropout,
  getRngState,
  Linear,
  liveTensorCount,
  Module,
  manualSeed,
  rand,
  randn,
  scope,
  setNumThreads,
  silu,
  type Tensor,
} from '../index.ts';

setNumThreads(1); // tensors this small only wait for each other's threads
const baseline = liveTensorCount();

afterEach(() => expect(liveTensorCount()).toBe(baseline));

class Block extends Module {
  readonly up = new Linear(6, 12);
  readonly down = new Linear(12, 6);
  readonly dropout = new Dropout(0.3);

  forward(x: Tensor): Tensor {
    const hidden = this.dropout.forward(silu(this.up.forward(x)));
    return x.add(this.down.forward(hidden));
  }
}

class Stack extends Module {
  readonly blocks = [new Block(), new Block(), new Block(), new Block()];
  readonly head = new Linear(6, 1);
}

interface Outcome {
  loss: number;
  gradients: Record<string, number[]>;
  rng: Uint8Array;
}

/** Runs `body` on a fresh model, then collects loss, all gradients and the random state. */
function outcome(body: (model: Stack, x: Tensor, shift: Tensor) => Tensor, inputGrad = true): Outcome {
  return scope(() => {
    manualSeed(4);
    using model = new Stack();
    const x = randn([5, 6]);
    const shift = rand([6]);
    x.requiresGrad = inputGrad;
    shift.requiresGrad = inputGrad;
    const loss = body(model, x, shift).item();
    const gradients: Record<string, number[]> = {};
    for (const [name, value] of [...model.namedParameters(), ['x', x], ['shift', shift]] as [string, Tensor][])
      gradients[name] = value.grad?.toNumbers() ?? [];
    return { loss, gradients, rng: getRngState().bytes() };
  });
}

const head = (model: Stack) => (x: Tensor) => model.head.forward(x).pow(2).mean();
const steps = (model: Stack) => model.blocks.map((block) => (x: Tensor) => block.forward(x));

/** The way a caller walks a chain of blocks: forwards with borders only, then backwards, each block once more. Returns the loss. */
function walk(blocks: readonly ((x: Tensor) => Tensor)[], input: Tensor, loss: (x: Tensor) => Tensor): Tensor {
  return scope(() => {
    const calls: CheckpointedCall[] = [];
    let border = input;
    for (const [i, block] of blocks.entries()) {
      const call = checkpoint(block, [border], { needsGrad: [i > 0 || input.requiresGrad] });
      calls.push(call);
      border = call.output;
    }
    const last = border.detach();
    last.requiresGrad = true;
    const value = loss(last);
    value.backward();
    let gradient = last.grad;
    for (const call of calls.reverse()) {
      if (!gradient) break;
      const [next] = call.backward(gradient);
      gradient.dispose();
      call.dispose();
      gradient = next ?? null;
    }
    if (input.requiresGrad && gradient) input.backward(gradient);
    return value.detach();
  });
}

describe('a chain of checkpoints', () => {
  test('gradients, loss and random state equal plain backward, dropout included', () => {
    const plain = outcome((model, x) => {
      let y = x;
      for (const step of steps(model)) y = step(y);
      const loss = head(model)(y);
      loss.backward();
      return loss;
    });
    const checkpointed = outcome((model, x) => walk(steps(model), x, head(model)));
    expect(checkpointed).toEqual(plain);
    expect(plain.gradients.x!.some((value) => value !== 0)).toBe(true);
  });

  test('gradients accumulate over calls, and flow on through the graph behind the input', () => {
    const plain = outcome((model, x, shift) => {
      for (let i = 0; i < 2; i++) head(model)(model.blocks[0]!.forward(x.mul(3).add(shift.exp()))).backward();
      return x.detach().sum();
    });
    const checkpointed = outcome((model, x, shift) => {
      for (let i = 0; i < 2; i++) walk(steps(model).slice(0, 1), x.mul(3).add(shift.exp()), head(model));
      return x.detach().sum();
    });
    expect(checkpointed).toEqual(plain);
  });

  test('a frozen input gets no gradient, and frozen blocks at the start need none', () => {
    const result = outcome((model, x) => {
      model.blocks[0]!.setRequiresGrad(false);
      return walk(steps(model), x, head(model));
    }, false);
    expect(result.gradients.x).toEqual([]);
    expect(result.gradients['blocks.0.up.weight']).toEqual([]);
    expect(result.gradients['blocks.1.up.weight']!.length).toBe(72);
  });

  test('no blocks at all is plain backward', () => {
    const plain = outcome((model, x) => {
      const loss = head(model)(x);
      loss.backward();
      return loss;
    });
    expect(outcome((model, x) => walk([], x, head(model)))).toEqual(plain);
  });

  test('memory: the activations of one block, not of all', () => {
    // Each of 32 blocks saves 8 activations of 2 MB: plainly 512 MB; checkpointed 32 borders and one block.
    const block = (x: Tensor) => {
      let y = x;
      for (let i = 0; i < 8; i++) y = y.sigmoid();
      return y;
    };
    const blocks = new Array<typeof block>(32).fill(block);
    type Watch = (value: Tensor) => Tensor;
    const chain = (x: Tensor, watch: Watch) =>
      walk(
        blocks.map((run) => (y: Tensor) => watch(run(y))),
        x,
        (y) => watch(y.mean()),
      );
    // What the first use of code costs is no activation.
    scope(() => {
      chain(randn([8], { requiresGrad: true }), (value) => value);
    });
    const start = process.memoryUsage.rss();
    const used = (body: (x: Tensor, watch: Watch) => void): number => {
      let peak = 0;
      const watch = (value: Tensor) => {
        peak = Math.max(peak, process.memoryUsage.rss() - start);
        return value;
      };
      scope(() => {
        body(randn([2 ** 19], { requiresGrad: true }), watch);
      });
      return peak / 2 ** 20;
    };
    const checkpointed = used(chain);
    const plain = used((x, watch) => {
      let y = x;
      for (const run of blocks) y = scope(() => watch(run(y))); // scopes free handles; the graph keeps what it saved
      watch(y.mean()).backward();
    });
    expect(plain).toBeGreaterThan(460);
    expect(checkpointed).toBeLessThan(plain / 2);
  });
});

describe('checkpoint', () => {
  test('one call: output without a graph, then the gradients of inputs and parameters', () => {
    scope(() => {
      manualSeed(2);
      using linear = new Linear(3, 3);
      const a = randn([2, 3], { requiresGrad: true });
      const b = randn([2, 3]);
      const call = checkpoint((x, y) => linear.forward(x).mul(y!), [a, b]);
      expect(call.output.requiresGrad).toBe(false);
      const gradOutput = randn([2, 3]);
      const [gradA, gradB] = call.backward(gradOutput);
      const got = [gradA!.toNumbers(), linear.weight.grad!.toNumbers()];
      linear.weight.grad = null;
      linear.forward(a).mul(b).backward(gradOutput);
      expect(got).toEqual([a.grad!.toNumbers(), linear.weight.grad!.toNumbers()]);
      expect(gradB).toBeNull();
      call.dispose();
    });
  });

  test('a failing block leaves the random state as it was', () => {
    scope(() => {
      let fail = false;
      const call = checkpoint(
        (x) => {
          if (fail) throw new Error('block failed');
          return x.mul(rand([2]));
        },
        [randn([2], { requiresGrad: true })],
      );
      const before = getRngState().bytes();
      fail = true;
      expect(() => call.backward(call.output)).toThrow('block failed');
      expect(getRngState().bytes()).toEqual(before);
    });
  });
});
