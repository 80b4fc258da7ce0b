/**
 * Training over several processes is training: losses and weights after 20 steps agree with one process for every ZeRO stage, what is trained,
 * how gradients flow, and with activation checkpointing or without.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openSafetensors, scope } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DECODER_PROJECTIONS } from '../../packages/ivtlr/src/lora/options.ts';
import { makeDominoes } from '../../packages/ivtlr/src/tasks/dominoes/make.ts';
import { runRanks } from '../ranks.ts';
import { writeTinyChameleon } from '../tiny-chameleon.ts';
import { writeTinyQwen3 } from '../tiny-qwen.ts';

const script = fileURLToPath(new URL('steps.mjs', import.meta.url));
const STEPS = 20;

/** How a run trains. */
interface Way {
  family: 'qwen' | 'qwen3' | 'chameleon';
  lora: boolean;
  gradient: 'detached' | 'through';
  checkpointing: boolean;
  dtype?: 'float32' | 'bfloat16';
}

const QWEN = {
  model_type: 'qwen2_vl',
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  rope_theta: 10000,
  rope_scaling: { type: 'mrope', mrope_section: [2, 3, 3] },
  tie_word_embeddings: true,
  vision_config: { depth: 1, embed_dim: 16, num_heads: 1, mlp_ratio: 2, hidden_size: 32 },
};

let folder = '';
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-sharded-'));
  writeTinyChameleon(join(folder, 'chameleon'));
  writeTinyQwen3(join(folder, 'qwen3'));
  await makeDominoes({ rows: 60, out: join(folder, 'data'), seed: 2 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const nameOf = ({ family, lora, gradient, checkpointing, dtype = 'float32' }: Way) =>
  [family, lora ? 'lora' : 'all', gradient, checkpointing ? 'twice' : 'once', dtype].join('-');

/** Rows differ in their numbers of latent steps, a step's last chunk is short, and stages are replayed. */
function recipeOf({ family, lora, gradient, checkpointing, dtype = 'float32' }: Way, zero: number, place: string) {
  const fresh = family === 'qwen';
  return {
    task: 'dominoes',
    maxSteps: 4,
    model: fresh ? { config: QWEN, initSeed: 1 } : { folder: join(folder, family) },
    profile: 'consistent',
    seed: 3,
    threads: 1,
    device: 'cpu',
    dtype,
    latent: {
      patches: 2,
      maxLatentStage: 2,
      epochsPerStage: [1, 1, 2],
      latentGradient: gradient,
      padLatentToMax: false,
      replay: 0.5,
    },
    lora: lora ? { rank: 3, alpha: 6, dropout: 0.1, targets: DECODER_PROJECTIONS } : null,
    activationCheckpointing: checkpointing,
    optimizer: { lr: 1e-3, clip: 1 },
    globalBatch: 10,
    microBatch: 2,
    numEpochs: 4,
    data: fresh
      ? { source: 'fresh', samplesPerEpoch: 47 }
      : { source: 'folder', folder: join(folder, 'data'), samplesPerEpoch: 47, threads: 1 },
    parallel: { zero, timeout: 60 },
    out: join(folder, place),
  };
}

async function train(world: number, ways: readonly (readonly [Way, number])[], steps = STEPS): Promise<string> {
  const place = mkdtempSync(join(folder, `world-${world}-`));
  const runs = ways.map(([way, zero]) => {
    const name = `${nameOf(way)}-${zero}`;
    mkdirSync(join(place, name));
    return { name, recipe: recipeOf(way, zero, join(place, name)) };
  });
  const results = await runRanks(world, script, { runs, steps, folder: place }, { timeout: 300 });
  const all = results.map(({ code, signal, stderr }) => `${code} ${signal} ${stderr}`).join('\n');
  for (const { code } of results) expect(code, all).toBe(0);
  return place;
}

const losses = (place: string, name: string) =>
  JSON.parse(readFileSync(join(place, `${name}.json`), 'utf8')) as number[];

function weights(place: string, name: string): Map<string, number[]> {
  const file = openSafetensors(join(place, `${name}.safetensors`));
  try {
    return scope(() => new Map(file.names().map((key) => [key, file.read(key).to('float64').toNumbers()])));
  } finally {
    file.close();
  }
}

function relativeNorm(found: ReadonlyMap<string, number[]>, wanted: ReadonlyMap<string, number[]>): number {
  expect([...found.keys()].sort()).toEqual([...wanted.keys()].sort());
  let off = 0;
  let size = 0;
  for (const [name, values] of wanted) {
    const other = found.get(name)!;
    values.forEach((value, i) => {
      off += (value - other[i]!) ** 2;
      size += value ** 2;
    });
  }
  return Math.sqrt(off / size);
}

function expectSame(place: string, name: string, reference: string, wanted: string, tolerance: number): void {
  const found = losses(place, name);
  losses(reference, wanted).forEach((loss, step) => {
    expect(Math.abs(found[step]! / loss - 1), `loss of step ${step + 1}`).toBeLessThan(tolerance);
  });
  expect(relativeNorm(weights(place, name), weights(reference, wanted)), 'weights').toBeLessThan(tolerance);
}

const flows = [
  { gradient: 'detached', checkpointing: false },
  { gradient: 'detached', checkpointing: true },
  { gradient: 'through', checkpointing: false },
] as const;
const product: Way[] = [false, true].flatMap((lora) =>
  flows.map((flow) => ({ family: 'qwen' as const, lora, ...flow })),
);
const stages = [0, 1, 2, 3];

describe('tiny Qwen2-VL, everything with everything', () => {
  let reference = '';
  beforeAll(async () => {
    reference = await train(
      1,
      product.map((way) => [way, 0]),
    );
  }, 120_000);

  test.each([2, 3, 4])('%d processes', { timeout: 300_000 }, async (world) => {
    const ways = product.flatMap((way) => stages.map((zero) => [way, zero] as const));
    const place = await train(world, ways);
    for (const [way, zero] of ways) expectSame(place, `${nameOf(way)}-${zero}`, reference, `${nameOf(way)}-0`, 1e-5);
  });
});

/** Every pair of settings at least once; the processes are the row's last number. */
const pairs: [lora: boolean, flow: number, zero: number, world: number][] = [
  [false, 0, 3, 2],
  [true, 1, 3, 3],
  [false, 2, 3, 4],
  [true, 0, 2, 4],
  [false, 1, 2, 2],
  [true, 2, 2, 3],
  [false, 0, 1, 3],
  [true, 1, 1, 4],
  [true, 2, 1, 2],
  [true, 0, 0, 2],
  [false, 1, 0, 3],
  [false, 2, 0, 4],
];

test('tiny Chameleon, every pair of settings', { timeout: 300_000 }, async () => {
  const ways = pairs.map(([lora, flow]): Way => ({ family: 'chameleon', lora, ...flows[flow]! }));
  const reference = await train(
    1,
    [...new Map(ways.map((way) => [nameOf(way), way])).values()].map((way) => [way, 0]),
  );
  for (const world of [2, 3, 4]) {
    const here = pairs.flatMap(([, , zero, processes], i) => (processes === world ? [[ways[i]!, zero] as const] : []));
    const place = await train(world, here);
    for (const [way, zero] of here) expectSame(place, `${nameOf(way)}-${zero}`, reference, `${nameOf(way)}-0`, 1e-5);
  }
});

test('tiny Qwen3-VL, all weights, under ZeRO 3', { timeout: 300_000 }, async () => {
  const ways = flows.map((flow): Way => ({ family: 'qwen3', lora: false, ...flow }));
  const reference = await train(
    1,
    ways.map((way) => [way, 0]),
    12,
  );
  const place = await train(
    3,
    ways.map((way) => [way, 3]),
    12,
  );
  for (const way of ways) expectSame(place, `${nameOf(way)}-3`, reference, `${nameOf(way)}-0`, 1e-5);
});

test('bfloat16 weights with float32 masters; the same run twice is equal bit for bit', {
  timeout: 300_000,
}, async () => {
  const narrow = stages.map((zero): [Way, number] => [{ ...product[0]!, dtype: 'bfloat16' }, zero]);
  const wide = stages.map((zero): [Way, number] => [product[0]!, zero]);
  const reference = await train(1, [narrow[0]!]);
  const [first, second] = [await train(3, [...narrow, ...wide]), await train(3, [...narrow, ...wide])];
  for (const [way, zero] of [...narrow, ...wide]) {
    for (const file of [`${nameOf(way)}-${zero}.safetensors`, `${nameOf(way)}-${zero}.json`])
      expect(readFileSync(join(first, file)).equals(readFileSync(join(second, file))), file).toBe(true);
  }
  // A bfloat16 has 8 bits: sums in another order differ in the last of them.
  for (const [way, zero] of narrow) expectSame(first, `${nameOf(way)}-${zero}`, reference, `${nameOf(way)}-0`, 2 ** -8);
});
