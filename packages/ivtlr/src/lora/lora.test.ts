import { Linear, liveTensorCount, Module, manualSeed, noGrad, randn, scope, type Tensor } from '@ivtlr/torch';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { injectLora, loraLayers, loraParameters, mergeLora, removeLora, unmergeLora } from './inject.ts';
import { LoraLinear } from './linear.ts';
import { loraSchema } from './options.ts';

class Block extends Module {
  q_proj = new Linear(12, 12);
  other_q_proj = new Linear(12, 12);
  down_proj = new Linear(12, 8, { bias: false });

  forward(x: Tensor): Tensor {
    return this.down_proj.forward(this.q_proj.forward(x).add(this.other_q_proj.forward(x)));
  }
}

class Net extends Module {
  layers = [new Block(), new Block()];

  forward(x: Tensor): Tensor {
    return this.layers[0]!.forward(x).add(this.layers[1]!.forward(x));
  }
}

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
  manualSeed(5);
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const options = loraSchema.parse({ rank: 4, alpha: 6, dropout: 0.25, targets: ['q_proj', 'down_proj'] });

/** With B at zero an adapter does nothing. */
function fill(module: Module): void {
  noGrad(() => scope(() => loraParameters(module).forEach((p) => void p.copy_(randn(p.shape).mul(0.3)))));
}

test('wraps whole names only, freezes all else and changes nothing at the start', () => {
  using net = new Net();
  scope(() => {
    const x = randn([3, 2, 12]);
    const before = net.forward(x).toNumbers();
    const names = [...net.stateDict().keys()];
    const weights = [...net.stateDict().values()];
    const wrapped = injectLora(net, options);
    expect([...wrapped.keys()]).toEqual([
      'layers.0.q_proj',
      'layers.0.down_proj',
      'layers.1.q_proj',
      'layers.1.down_proj',
    ]);
    expect(net.forward(x).toNumbers()).toEqual(before);
    const trained = [...net.namedParameters()].filter(([, p]) => p.requiresGrad).map(([name]) => name);
    expect(trained).toEqual([...loraParameters(net).keys()]);
    expect(trained).toContain('layers.1.q_proj.lora_A.weight');
    // No copies: the very tensors of the base, under their own names.
    const after = net.stateDict();
    expect(names.every((name, i) => after.get(name) === weights[i])).toBe(true);
    expect(net.layers[0]!.q_proj.training).toBe(true);
  });
});

test('A starts within 1/sqrt(inputs), B at zero, the same for the same seed', () => {
  const starts = [1, 1, 2].map((seed) => {
    using net = new Net();
    manualSeed(seed);
    injectLora(net, options);
    const { lora_A, lora_B } = loraLayers(net).get('layers.1.down_proj')!;
    expect(lora_B.weight.toNumbers().every((v) => v === 0)).toBe(true);
    const values = lora_A.weight.toNumbers();
    const largest = Math.max(...values.map(Math.abs));
    expect(largest).toBeLessThanOrEqual(1 / Math.sqrt(12));
    expect(largest).toBeGreaterThan(0.8 / Math.sqrt(12));
    return values;
  });
  expect(starts[1]).toEqual(starts[0]);
  expect(starts[2]).not.toEqual(starts[0]);
});

test('only adapters get gradients, and a step through them changes the output', () => {
  using net = new Net();
  injectLora(net, options);
  fill(net);
  scope(() => {
    net
      .forward(randn([2, 12]))
      .pow(2)
      .sum()
      .backward();
    for (const [name, p] of net.namedParameters()) expect(p.grad !== null, name).toBe(name.includes('lora_'));
    for (const p of loraParameters(net).values()) {
      expect(p.grad!.abs().sum().item()).toBeGreaterThan(0);
      p.grad = null;
    }
  });
});

test('dropout acts in training only, on the input of the adapter', () => {
  using layer = new LoraLinear(new Linear(400, 3), { rank: 1, scaling: 1, dropout: 0.25 });
  scope(() =>
    noGrad(() => {
      layer.weight.zero_();
      layer.bias!.zero_();
      layer.lora_A.weight.fill_(1);
      layer.lora_B.weight.fill_(1);
      const x = randn([1, 400]).mul(0).add(1);
      layer.eval();
      expect(layer.forward(x).toNumbers()).toEqual([400, 400, 400]);
      layer.train();
      const [first] = layer.forward(x).toNumbers();
      expect(first).not.toBe(400);
      // 400 kept with probability .75, each counted 1 / .75 times
      expect(first! * 0.75).toBeCloseTo(Math.round(first! * 0.75), 2);
      expect(first).toBeGreaterThan(340);
      expect(first).toBeLessThan(460);
    }),
  );
});

test('merged and unmerged give the same output; unmerge restores the weight; remove leaves plain layers', () => {
  using net = new Net();
  scope(() => {
    const x = randn([4, 12]);
    const base = net.forward(x).toNumbers();
    const far = (a: number[], b: number[]) => Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));
    injectLora(net, options);
    fill(net);
    net.eval();
    const adapted = net.forward(x).toNumbers();
    expect(far(adapted, base)).toBeGreaterThan(0.05);
    mergeLora(net);
    mergeLora(net); // once is enough
    expect(far(net.forward(x).toNumbers(), adapted)).toBeLessThan(1e-5);
    unmergeLora(net);
    expect(far(net.forward(x).toNumbers(), adapted)).toBeLessThan(1e-5);
    mergeLora(net);
    removeLora(net);
    expect(loraLayers(net).size).toBe(0);
    expect(net.layers[0]!.q_proj).toBeInstanceOf(Linear);
    expect(far(net.forward(x).toNumbers(), adapted)).toBeLessThan(1e-5);
  });
});

test('at inference the base layer runs on the kernel that it runs on without an adapter', () => {
  // Many outputs, so that another kernel's order of sums would round some of them to another number.
  const base = new Linear(512, 20000, { dtype: 'bfloat16' });
  scope(() =>
    noGrad(() => {
      const x = randn([1, 512]).to('bfloat16');
      const plain = base.forward(x).to('float32').toNumbers();
      // B is zero at the start, so the adapter adds nothing.
      using layer = new LoraLinear(base, { rank: 2, scaling: 1, dropout: 0 });
      expect(layer.forward(x).to('float32').toNumbers()).toEqual(plain);
      layer.merge();
      expect(layer.forward(x).to('float32').toNumbers()).toEqual(plain);
    }),
  );
});

test('merging into 16 bits rounds the sum once', () => {
  using layer = new LoraLinear(new Linear(40, 30, { dtype: 'bfloat16' }), { rank: 3, scaling: 1.5, dropout: 0 });
  noGrad(() =>
    scope(() => {
      layer.lora_B.weight.copy_(randn([30, 3]).mul(0.3));
      const before = layer.weight.detach().to('float32');
      const product = layer.lora_B.weight.matmul(layer.lora_A.weight).mul(1.5);
      const once = before.add(product).to('bfloat16').to('float32').toNumbers();
      const twice = before.add(product.to('bfloat16').to('float32')).to('bfloat16').to('float32').toNumbers();
      layer.merge();
      expect(layer.weight.to('float32').toNumbers()).toEqual(once);
      expect(once).not.toEqual(twice);
    }),
  );
});

test('a base moved to another dtype keeps its adapters in float32', () => {
  using layer = new LoraLinear(new Linear(6, 4, { dtype: 'bfloat16' }), { rank: 2, scaling: 2, dropout: 0 });
  expect([layer.weight.dtype, layer.lora_A.weight.dtype, layer.lora_B.weight.dtype]).toEqual([
    'bfloat16',
    'float32',
    'float32',
  ]);
  scope(() => {
    const x = randn([2, 3, 6], { dtype: 'float32' }).to('bfloat16');
    x.requiresGrad = true;
    const y = layer.forward(x);
    expect(y.dtype).toBe('bfloat16');
    expect(y.shape).toEqual([2, 3, 4]);
    y.sum().backward();
    expect(layer.lora_B.weight.grad!.dtype).toBe('float32');
    expect(x.grad!.dtype).toBe('bfloat16');
    for (const p of [layer.lora_A.weight, layer.lora_B.weight]) p.grad = null;
  });
});

test('targets that match nothing are named', () => {
  using net = new Net();
  expect(() => injectLora(net, { ...options, targets: ['q_proj', 'fc1'] })).toThrow(
    new UserError('lora.targets: the model has no linear layer fc1; its layers end in q_proj, other_q_proj, down_proj'),
  );
  injectLora(net, options);
  expect(() => injectLora(net, options)).toThrow(/already has LoRA adapters/);
});
