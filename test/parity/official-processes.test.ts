/** Training in two processes against the official model under DistributedDataParallel and under DeepSpeed (ZeRO stage 2). */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { manualSeed, noGrad, openSafetensors, randn, saveSafetensors, scope } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { injectLora, loraParameters } from '../../packages/ivtlr/src/lora/inject.ts';
import { DECODER_PROJECTIONS } from '../../packages/ivtlr/src/lora/options.ts';
import { runRanks } from '../ranks.ts';
import { type ChameleonCase, seededChameleon, seededChameleonImages } from './chameleon-model.ts';
import { type GoldenCase, readGolden, seededImages, seededModel } from './model.ts';

/** What a group of processes came to. */
interface Outcome {
  name: string;
  seed: number;
  /** Per step, before it: the mean over processes and micro-batches, and the norm of the mean gradient. */
  losses: number[];
  gradient_norms: number[];
  /** After the last step, by name: norm, norm of the whole change, and every n-th value of the flattened tensor. */
  trained: Record<string, { norm: number; moved: number; samples: number[] }>;
}

interface Case extends GoldenCase, Pick<ChameleonCase, 'pictures'>, Outcome {
  lora: { rank: number; alpha: number } | null;
  steps: number;
  lr: number;
  micros: { latents: number; input_ids: number[][]; labels: number[][] }[][];
}

interface Golden<T> {
  engine: string;
  processes: number;
  optimiser: { weight_decay: number; clipping: number };
  cases: T[];
}

const script = fileURLToPath(new URL('processes.mjs', import.meta.url));
const ddp = readGolden<Golden<Case>>('official-ddp.json');
const deepspeed = readGolden<Golden<Outcome>>('official-deepspeed.json');
const SAMPLES = 48;

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-processes-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Writes everything the ranks need that is drawn from the seed; gives the trained tensors as they are before the first step. */
function writeStart(golden: Case): Map<string, number[]> {
  const isChameleon = (golden.config as { model_type: string }).model_type === 'chameleon';
  using model = isChameleon ? seededChameleon(golden) : seededModel(golden);
  return scope(() => {
    if (golden.lora) {
      injectLora(model.module, { ...golden.lora, dropout: 0, targets: DECODER_PROJECTIONS });
      const factors = [...loraParameters(model.module)].sort(([a], [b]) => (a < b ? -1 : 1));
      manualSeed(golden.seed + 3);
      noGrad(() => {
        for (const [, factor] of factors) factor.copy_(randn(factor.shape).mul(0.5 / Math.sqrt(factor.shape[1]!)));
      });
    }
    const parameters = [...model.module.namedParameters()];
    const images = isChameleon ? seededChameleonImages(golden) : seededImages(golden);
    const pixels = images.map((image, i) => [`pixels.${i}`, image.pixels.contiguous()] as const);
    saveSafetensors(join(folder, 'start.safetensors'), new Map([...parameters, ...pixels]));
    return new Map(
      parameters.filter(([name]) => name in golden.trained).map(([name, p]) => [name, p.detach().toNumbers()]),
    );
  });
}

function readWeights(file: string): Map<string, number[]> {
  const stored = openSafetensors(file);
  try {
    return scope(() => new Map(stored.names().map((name) => [name, stored.read(name).toNumbers()])));
  } finally {
    stored.close();
  }
}

const norm = (values: readonly number[]) => Math.hypot(...values);
const minus = (a: readonly number[], b: readonly number[]) => a.map((value, i) => value - b[i]!);
const sampled = (values: readonly number[]) => {
  const every = Math.max(1, Math.floor(values.length / SAMPLES));
  return values.filter((_, i) => i % every === 0).slice(0, SAMPLES);
};

/** Compares one stage's losses, gradient norms, weights, and how far the weights have come. */
function expectEqual(zero: number, start: ReadonlyMap<string, number[]>, wanted: Outcome): void {
  const found = JSON.parse(readFileSync(join(folder, `zero-${zero}.json`), 'utf8')) as Record<string, number[]>;
  for (const [name, numbers] of [
    ['losses', wanted.losses],
    ['norms', wanted.gradient_norms],
  ] as const) {
    expect(found[name]!.length).toBe(numbers.length);
    numbers.forEach((number, step) => {
      expect(Math.abs(found[name]![step]! / number - 1), `${name}, step ${step + 1}`).toBeLessThan(1e-4);
    });
  }
  const weights = readWeights(join(folder, `zero-${zero}.safetensors`));
  expect([...weights.keys()].sort()).toEqual(Object.keys(wanted.trained).sort());
  for (const [name, golden] of Object.entries(wanted.trained)) {
    const own = weights.get(name)!;
    const before = start.get(name)!;
    const samples = sampled(own);
    expect(samples.length).toBe(golden.samples.length);
    // Relative to how far the weights have come, which is a small part of them. A key bias shifts all scores of a query nearly alike, which
    // softmax does not see: its gradient is little more than rounding, and AdamW enlarges that.
    const tolerance = name.endsWith('k_proj.bias') ? 1e-2 : 1e-4;
    const change = minus(golden.samples, sampled(before));
    expect(norm(minus(samples, golden.samples)) / norm(change), name).toBeLessThan(tolerance);
    expect(Math.abs(norm(minus(own, before)) / golden.moved - 1), name).toBeLessThan(tolerance);
    expect(Math.abs(norm(own) / golden.norm - 1), name).toBeLessThan(1e-4);
  }
}

const cases = ddp.cases.map((golden, i) => [golden.name, golden, deepspeed.cases[i]] as const);

test('the cases are worth comparing', () => {
  // Chameleon was not run under DeepSpeed.
  expect(ddp.cases.map(({ name }) => name)).toEqual([
    ...deepspeed.cases.map(({ name }) => name),
    'Chameleon, decoder projections',
  ]);
  expect(ddp.cases.some(({ lora }) => lora) && ddp.cases.some(({ lora }) => !lora)).toBe(true);
  // In some steps clipping scales the gradients down, in others it does not.
  const { clipping } = ddp.optimiser;
  const norms = ddp.cases[0]!.gradient_norms;
  expect(Math.max(...norms)).toBeGreaterThan(clipping);
  expect(Math.min(...norms)).toBeLessThan(clipping);
  // Processes differ in their latent steps, and micro-batches in their number of labels.
  const micros = ddp.cases[0]!.micros.flat();
  const labels = micros.map((micro) => micro.labels.flat().filter((label) => label >= 0).length);
  expect(new Set(micros.map(({ latents }) => latents)).size).toBeGreaterThan(1);
  expect(new Set(labels).size).toBeGreaterThan(1);
});

const WAYS = [
  ['two processes, ZeRO stages 0 to 3', 2, [0, 1, 2, 3]],
  ['one process with the micro-batches of both', 1, [0]],
] as const;

describe.each(cases)('%s', (_, golden, other) => {
  // One process takes long on Chameleon's thousand image tokens, and adds little.
  test.each(other ? WAYS : WAYS.slice(0, 1))('%s', async (_, world, stages) => {
    const start = writeStart(golden);
    const { optimiser } = ddp;
    const results = await runRanks(world, script, { golden, stages, folder, optimiser }, { timeout: 100 });
    for (const { code, stderr } of results) expect(code, stderr).toBe(0);
    for (const zero of stages) {
      expectEqual(zero, start, golden);
      if (other) expectEqual(zero, start, other);
    }
  });
});
