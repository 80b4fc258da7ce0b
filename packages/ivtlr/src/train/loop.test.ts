import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  keep,
  liveTensorCount,
  manualSeed,
  openSafetensors,
  randn,
  saveSafetensors,
  scope,
  type Tensor,
} from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { MicroBatch } from './batches.ts';
import { type Checkpoint, readLatestCheckpoint } from './checkpoint.ts';
import { runTraining, type TrainRun } from './loop.ts';
import { readMetrics } from './metrics.ts';
import { checkpointSchema, optimizerSchema, scheduleSchema } from './options.ts';
import { planRun } from './schedule.ts';
import type { LossResult, Trainee } from './step.ts';

let out: string;
let baseline: number;
beforeEach(() => {
  out = mkdtempSync(join(tmpdir(), 'ivtlr-loop-'));
  baseline = liveTensorCount();
});
afterEach(() => {
  rmSync(out, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

/** A linear model on data drawn from torch's own generator, so that a resumed run must restore that generator too. */
function regression(checkpoint: Checkpoint | null, poison = -1): Trainee & { free(): void } {
  const weight = scope(() => {
    manualSeed(5);
    const fresh = keep(randn([4, 3]));
    if (!checkpoint) return fresh;
    fresh.dispose();
    const file = openSafetensors(join(checkpoint.folder, 'model.safetensors'));
    try {
      return keep(file.read('weight'));
    } finally {
      file.close();
    }
  });
  weight.requiresGrad = true;
  return {
    parameters: new Map([['weight', weight]]),
    loss(micro: MicroBatch): LossResult {
      const x: Tensor = randn([8, 4]);
      const y = x.matmul(weight).sub(1);
      let loss = y.mul(y).mean();
      if (micro.ids[0] === `row ${poison}`) loss = loss.log().mul(Number.NaN);
      return { loss, crossEntropy: loss, tokens: 2, correct: 1 };
    },
    save: (folder) => saveSafetensors(join(folder, 'model.safetensors'), new Map([['weight', weight]])),
    free: () => weight.dispose(),
  };
}

interface Settings {
  resume?: boolean;
  stopAfter?: number;
  everySteps?: number;
  poison?: number;
}

async function run(folder: string, { resume = false, stopAfter = -1, everySteps, poison = -1 }: Settings = {}) {
  const plan = planRun([{ name: 'warm', steps: 4 }], 3, 5, (epoch) => epoch);
  const checkpoint = resume ? readLatestCheckpoint(folder) : null;
  const trainee = regression(checkpoint, poison);
  let done = checkpoint?.state.step ?? 0;
  const settings: TrainRun = {
    plan,
    trainee,
    batches: async (position) => {
      done++;
      const ids = [`row ${position.phase.start + position.phaseStep}`];
      return [0.25, 0.75].map((weight) => ({ batch: { images: [] } as unknown as MicroBatch['batch'], ids, weight }));
    },
    validate: async (position) => (position.epoch === 1 ? { accuracy: 0.5, samples: 4, autoregressiveSteps: 3 } : null),
    optimizer: optimizerSchema.parse({ lr: 0.05, clip: 1 }),
    schedule: scheduleSchema.parse({ warmupSteps: 2, decayTo: 0.1 }),
    pretrain: [{ name: 'warm', steps: 4, mix: [], lr: 0.01, schedule: scheduleSchema.parse({}) }],
    resetOptimizerAtStage: true,
    checkpoint: checkpointSchema.parse({ everySteps: everySteps ?? null, keep: 2, stageModels: true }),
    device: 'cpu',
    out: folder,
    recipe: { name: 'test' },
    resume: checkpoint,
    reporter: { step() {}, note() {} },
    stopRequested: () => (done === stopAfter ? 'SIGINT' : null),
  };
  try {
    return await runTraining(settings);
  } finally {
    trainee.free();
  }
}

const weights = (folder: string) => readFileSync(join(folder, 'model', 'model.safetensors'));

describe('runTraining', () => {
  it('ends in the same bits however often it is interrupted', async () => {
    const whole = join(out, 'whole');
    const parts = join(out, 'parts');
    expect((await run(whole)).stopped).toBeNull();
    // Stops inside a pretrain phase, at the end of a stage and inside one.
    for (const [i, stopAfter] of [2, 9, 16].entries()) {
      const end = await run(parts, { resume: i > 0, stopAfter });
      expect(end).toMatchObject({ stopped: 'SIGINT', step: stopAfter });
      expect(readLatestCheckpoint(parts)!.state.step).toBe(stopAfter);
    }
    expect((await run(parts, { resume: true })).step).toBe(19);
    expect(weights(parts).equals(weights(whole))).toBe(true);
    const steps = (folder: string) =>
      readMetrics(join(folder, 'metrics.jsonl')).map((entry) => ({ ...entry, samplesPerSecond: 0 }));
    expect(steps(parts)).toEqual(steps(whole));
    expect(readdirSync(join(parts, 'models')).sort()).toEqual(['stage-0', 'stage-1', 'stage-2', 'warm']);
  });

  it('drops metrics past the checkpoint it resumes from', async () => {
    await run(out, { everySteps: 6, stopAfter: 8 });
    rmSync(join(out, 'checkpoints', 'step-00000008'), { recursive: true });
    writeFileSync(join(out, 'checkpoints', 'latest'), 'step-00000006\n');
    await run(out, { resume: true });
    const entries = readMetrics(join(out, 'metrics.jsonl')).filter((entry) => entry.kind === 'step');
    expect(entries.map((entry) => entry.step)).toEqual(Array.from({ length: 19 }, (_, i) => i + 1));
    expect(entries.at(-1)!.stage).toBe(2);
  });

  it('keeps only the newest checkpoints', async () => {
    await run(out, { everySteps: 3 });
    expect(readdirSync(join(out, 'checkpoints')).sort()).toEqual(['latest', 'step-00000018', 'step-00000019']);
  });

  it('stops at a loss that is no number, names the batch and keeps the checkpoint', async () => {
    await expect(run(out, { everySteps: 3, poison: 7 })).rejects.toThrow(
      /stopped at step 8 \(stage-0\): the loss is NaN on the batch of samples row 7; .*step-00000006/,
    );
    expect(readLatestCheckpoint(out)!.state.step).toBe(6);
  });
});
