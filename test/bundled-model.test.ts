/** The model in the repository does what its table says: it answers with its latent steps, and not without them. */
import { fileURLToPath } from 'node:url';
import { liveTensorCount } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type LoadedModel, openModelFolder } from '../packages/ivtlr/src/engine/loaded-model.ts';
import { evaluate, generatedSamples } from '../packages/ivtlr/src/eval/runner.ts';
import { ABLATIONS } from '../packages/ivtlr/src/latent/options.ts';
import { findTask } from '../packages/ivtlr/src/tasks/registry.ts';

const models = fileURLToPath(new URL('../packages/ivtlr/models/', import.meta.url));
const rows = 200;
/** Not the seed of any table or training run. */
const seed = 20261;

let baseline: number;
let latent: LoadedModel;
let written: LoadedModel;
let relay: LoadedModel;
beforeAll(() => {
  baseline = liveTensorCount();
  latent = openModelFolder(`${models}dominoes`);
  written = openModelFolder(`${models}dominoes-cot`);
  relay = openModelFolder(`${models}relay`);
});
afterAll(() => {
  latent.model.module.dispose();
  written.model.module.dispose();
  relay.model.module.dispose();
  expect(liveTensorCount()).toBe(baseline);
});

async function accuracy(opened: LoadedModel, name: string) {
  const task = findTask(opened.settings.task!);
  const samples = generatedSamples(task, seed, 'test', rows);
  const ablation = ABLATIONS[name]!;
  const result = await evaluate(opened, task, samples, { name, batch: 50, maxNewTokens: 40, ablation, seed });
  return { accuracy: result.correctStrict / rows, steps: result.autoregressiveSteps, picks: result.pickAccuracy };
}

it('answers fresh pictures in 14 steps, looking at the right cells', async () => {
  const full = await accuracy(latent, 'full');
  expect(full.accuracy).toBeGreaterThanOrEqual(0.97);
  expect(full.steps).toBeLessThanOrEqual(14.1);
  expect(full.picks).toBeGreaterThanOrEqual(0.97);
});

it.each(['zero-latents', 'text-zeroed', 'patches-zeroed', 'random-patches', 'no-latent-vision'])(
  'guesses with %s',
  async (name) => {
    expect((await accuracy(latent, name)).accuracy).toBeLessThanOrEqual(0.4);
  },
);

it('comes with a second model that writes its reasoning out in 23 steps', async () => {
  const { accuracy: right, steps } = await accuracy(written, 'full');
  expect(right).toBeGreaterThanOrEqual(0.97);
  expect(steps).toBeCloseTo(23, 0);
});

it('relay answers in three latent steps that remember one step each, and writes nothing but the answer', async () => {
  expect(relay.settings).toMatchObject({ latents: 3, latentMemory: 'last', hideImageFromText: true });
  const full = await accuracy(relay, 'full');
  expect(full.accuracy).toBeGreaterThanOrEqual(0.97);
  expect(full.steps).toBe(10);
  expect(full.picks).toBeGreaterThanOrEqual(0.97);
});

it.each(['zero-latents', 'text-zeroed', 'text-swapped', 'last-text-swapped', 'patches-swapped'])(
  'relay with %s is far from its accuracy',
  async (name) => {
    expect((await accuracy(relay, name)).accuracy).toBeLessThanOrEqual(0.6);
  },
);
