import { AdamW, elementSize, Linear, liveTensorCount, Module, ones, scope, type Tensor } from '@ivtlr/torch';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { injectLora, loraParameters } from '../lora/inject.ts';
import { describeMemory, estimateMemory, type MemoryNeeds } from './memory.ts';

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));

class Layer extends Module {
  up_proj = new Linear(64, 128, { bias: false, dtype: 'bfloat16' });
  down_proj = new Linear(128, 64, { bias: false, dtype: 'bfloat16' });
}

class Decoder extends Module {
  layers = Array.from({ length: 4 }, () => new Layer());
}

class Net extends Module {
  model = new Decoder();
}

const needs: MemoryNeeds = { rows: 2, columns: 100, vocabularySize: 1000, activationCheckpointing: false };

it('counts weights, gradients and optimiser state of what is trained', () => {
  using net = new Net();
  const elements = 4 * 2 * 64 * 128;
  const full = estimateMemory(net, net.namedParameters(), needs);
  expect(full).toMatchObject({ weights: 2 * elements, gradients: 2 * elements, optimizer: 12 * elements });
  expect(full.total).toBe(full.weights + full.gradients + full.optimizer + full.activations);
  injectLora(net, { rank: 2, alpha: 4, dropout: 0, targets: ['up_proj', 'down_proj'] });
  const lora = estimateMemory(net, loraParameters(net), needs);
  const factors = 4 * 2 * 2 * (64 + 128);
  expect(lora).toMatchObject({ weights: 2 * elements + 4 * factors, gradients: 4 * factors, optimizer: 8 * factors });
  expect(lora.activations).toBeGreaterThan(full.activations);
});

it.each(['all weights', 'adapters'])('equals what a step really holds: %s', (what) => {
  using net = new Net();
  if (what === 'adapters') injectLora(net, { rank: 2, alpha: 4, dropout: 0, targets: ['up_proj', 'down_proj'] });
  const trained = new Map([...net.namedParameters()].filter(([, { requiresGrad }]) => requiresGrad));
  const estimate = estimateMemory(net, trained, needs);
  using optimizer = new AdamW(trained, { masterWeights: true });
  scope(() => {
    const input = ones([1, 64], { dtype: 'bfloat16' });
    let output = input;
    for (const { up_proj, down_proj } of net.model.layers) output = down_proj.forward(up_proj.forward(output));
    output.sum().backward();
    optimizer.step();
  });
  const bytes = (tensors: Iterable<Tensor>) => {
    let sum = 0;
    for (const { numel, dtype } of tensors) sum += numel * elementSize(dtype);
    return sum;
  };
  const state = [...optimizer.stateDict().tensors].filter(([name]) => !name.endsWith('.step')).map(([, t]) => t);
  expect(bytes(state)).toBe(estimate.optimizer);
  expect(scope(() => bytes([...trained.values()].map(({ grad }) => grad!)))).toBe(estimate.gradients);
  expect(bytes(net.parameters())).toBe(estimate.weights);
  for (const parameter of trained.values()) parameter.grad = null;
});

it('counts the float32 copies of a step where they are more than the activations', () => {
  using net = new Net();
  const few = estimateMemory(net, net.namedParameters(), { ...needs, columns: 1 });
  const widened = 4 * 4 * 2 * 64 * 128;
  expect(few.activations).toBeLessThan(widened);
  expect(few.total).toBe(few.weights + few.gradients + few.optimizer + widened);
});

it('activations grow with the batch, and shrink with checkpointing', () => {
  using net = new Net();
  const activations = (more: Partial<MemoryNeeds>) =>
    estimateMemory(net, net.namedParameters(), { ...needs, ...more }).activations;
  const once = activations({ vocabularySize: 0 });
  // Inputs and outputs of two layers of 192 numbers each, four times, in two bytes.
  expect(once).toBe(4 * 2 * 192 * 2 * 200);
  expect(activations({ vocabularySize: 0, columns: 200 })).toBe(2 * once);
  expect(activations({ vocabularySize: 0, activationCheckpointing: true })).toBe(once / 4 + 4 * 64 * 2 * 200);
});

it('says what the machine has, and when it is not enough', () => {
  const estimate = {
    weights: 3 * 2 ** 30,
    gradients: 2 ** 20,
    optimizer: 2 ** 30,
    activations: 2 ** 29,
    total: 4.5 * 2 ** 30,
  };
  expect(describeMemory({ ...estimate, available: 8 * 2 ** 30 }, needs)).toBe(
    'memory: about 4.5 GB (weights 3.0 GB, gradients 1.0 MB, optimiser 1.0 GB, activations 0.5 GB, for 2 rows of 100 columns); 8.0 GB can be had',
  );
  expect(describeMemory({ ...estimate, available: 2 ** 31 }, needs)).toMatch(
    /2\.0 GB can be had\nThis will not fit: a smaller microBatch/,
  );
});
