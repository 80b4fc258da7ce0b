/** Whatever happens in one process, all go on with equal weights, or all end with one message. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runRanks, startRanks } from '../ranks.ts';

const script = fileURLToPath(new URL('world.mjs', import.meta.url));
/** Seconds; the group's own. */
const TIMEOUT = 20;
const STEPS = 10;

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-world-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface World {
  processes: number;
  zero: number;
  lora: boolean;
  through: boolean;
  globalBatch: number;
  samples: number;
  supervised: boolean;
  faults: { kind: string; rank: number; step: number }[];
}

/** Texts without images first, then rows with different numbers of latent steps; batches end unevenly. */
function recipeOf({ zero, lora, through, globalBatch, samples, supervised }: World) {
  return {
    task: 'dominoes',
    maxSteps: 4,
    model: {
      initSeed: 1,
      config: {
        model_type: 'qwen2_vl',
        hidden_size: 32,
        intermediate_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        rope_theta: 10000,
        rope_scaling: { type: 'mrope', mrope_section: [2, 3, 3] },
        tie_word_embeddings: !lora,
        vision_config: { depth: 1, embed_dim: 16, num_heads: 1, mlp_ratio: 2, hidden_size: 32 },
      },
    },
    seed: 3,
    threads: 1,
    device: 'cpu',
    latent: {
      patches: 1,
      maxLatentStage: 2,
      epochsPerStage: 1,
      latentGradient: through ? 'through' : 'detached',
      pickSupervision: supervised ? 0.2 : 0,
      padLatentToMax: false,
      replay: 0.5,
    },
    lora: lora ? { rank: 2, alpha: 4, dropout: 0.1, targets: ['q_proj', 'down_proj'] } : null,
    optimizer: { lr: 1e-3, clip: 1 },
    guard: { spikeFactor: 3, onSpike: 'skip' },
    globalBatch,
    microBatch: 2,
    numEpochs: 3,
    data: { source: 'fresh', samplesPerEpoch: samples, validation: { samples: 3, batch: 2, maxNewTokens: 2 } },
    pretrain: [
      {
        name: 'read',
        steps: 3,
        mix: [
          { task: 'picture', batch: 2 },
          { task: 'options', batch: 3 },
        ],
        lr: 1e-3,
      },
    ],
    checkpoint: { everySteps: 4 },
    parallel: { zero, timeout: TIMEOUT },
    out: mkdtempSync(join(folder, 'run-')),
  };
}

const kinds = ['bad row', 'NaN', 'crash', 'spike', 'slow', 'SIGINT', 'SIGTERM', 'disk full'];
/** What these end with, where nothing else comes before. */
const fatal = ['bad row', 'NaN', 'crash', 'disk full'];

const worlds = fc.integer({ min: 2, max: 4 }).chain((processes) =>
  fc.record({
    processes: fc.constant(processes),
    zero: fc.integer({ min: 0, max: 3 }),
    lora: fc.boolean(),
    through: fc.boolean(),
    globalBatch: fc.constantFrom(2, 4, 6, 8),
    samples: fc.integer({ min: 5, max: 11 }),
    supervised: fc.boolean(),
    faults: fc.array(
      fc.record({
        kind: fc.constantFrom(...kinds),
        rank: fc.integer({ min: 0, max: processes - 1 }),
        step: fc.integer({ min: 1, max: STEPS }),
      }),
      { maxLength: 3 },
    ),
  }),
);

async function live(world: World) {
  const payload = { recipe: recipeOf(world), faults: world.faults };
  const results = await runRanks(world.processes, script, payload, { timeout: 2 * TIMEOUT });
  return results.map(({ code, stdout, stderr }) => {
    expect(code, stderr).toBe(0);
    return JSON.parse(stdout) as { how: string; message?: string; steps?: number; weights: string };
  });
}

test('worlds in which things go wrong', { timeout: 600_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(worlds, async (world) => {
      const ends = await live(world);
      for (const end of ends) expect(end).toEqual(ends[0]);
      if (!world.faults.some(({ kind }) => fatal.includes(kind))) expect(ends[0]!.how).not.toBe('error');
    }),
    { numRuns: 16, seed: 20260, endOnFailure: true },
  );
});

const calm: World = {
  ...{ processes: 3, zero: 2, lora: false, through: true, globalBatch: 6, samples: 9, supervised: false, faults: [] },
};

test.each([
  ['bad row', /^training stopped at step 5 .*process 1 of 3: row 5 cannot be used/],
  ['NaN', /^training stopped at step 5 .*process 1 of 3: the loss is NaN on the batch of samples/],
  ['crash', /process 1 of 3 failed: the kernel failed|^the kernel failed$/],
])('%s in one process', async (kind, message) => {
  for (const zero of [0, 3]) {
    const ends = await live({ ...calm, zero, faults: [{ kind, rank: 1, step: 5 }] });
    for (const end of ends) expect(end.message).toMatch(message);
  }
});

test('a full disk under the first process, a signal to another', async () => {
  const full = await live({ ...calm, faults: [{ kind: 'disk full', rank: 0, step: 4 }] });
  for (const end of full) expect(end.message).toMatch(/^process 0 of 3: cannot write .*ENOSPC/);
  const stopped = await live({ ...calm, faults: [{ kind: 'SIGTERM', rank: 2, step: 4 }] });
  for (const end of stopped) expect(end).toMatchObject({ how: 'SIGTERM', steps: 4 });
});

test.each(['SIGKILL', 'SIGSTOP'] as const)('%s to a process', { timeout: 180_000 }, async (signal) => {
  for (const zero of [0, 3]) {
    const faults = [0, 1, 2].map((rank) => ({ kind: 'slow', rank, step: 2 }));
    const recipe = { ...recipeOf({ ...calm, zero }), numEpochs: 400, parallel: { zero, timeout: 5 } };
    await using group = await startRanks(3, script, { recipe, faults }, { timeout: 60 });
    await new Promise((resolve) => setTimeout(resolve, 4000));
    group.ranks[1]!.process.kill(signal);
    for (const rank of [0, 2]) {
      const { code, stdout, stderr } = await group.ranks[rank]!.outcome;
      expect(`${code} ${stdout}${stderr}`).toMatch(
        /(rank|process)(e?s)? [0-9, ]*1[0-9, ]* do(es)? not answer|Connection closed|is gone|have noticed/,
      );
    }
  }
});
