import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { keep, liveTensorCount, manualSeed, ones, openSafetensors, randn, scope, type Tensor } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import type { MicroBatch } from './batches.ts';
import { type Checkpoint, readLatestCheckpoint } from './checkpoint.ts';
import { runTraining, type TrainRun } from './loop.ts';
import { readMetrics } from './metrics.ts';
import { type GuardOptions, loopSchema } from './options.ts';
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
function regression(checkpoint: Checkpoint | null, poison = -1, spike = -1): Trainee & { free(): void } {
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
      if (micro.ids[0] === `row ${spike}`) loss = loss.mul(100);
      return {
        loss,
        backward: (factor) => loss.mul(factor).backward(),
        crossEntropy: loss,
        tokens: 2,
        correct: ones([]),
      };
    },
    files: () => [{ name: 'model.safetensors', content: { tensors: new Map([['weight', weight]]), metadata: {} } }],
    free: () => weight.dispose(),
  };
}

interface Settings {
  resume?: boolean;
  stopAfter?: number;
  everySteps?: number;
  poison?: number;
  spike?: number;
  guard?: Partial<GuardOptions>;
  notes?: string[];
  stepsPerEpoch?: number;
  /** Step whose batch cannot be made. */
  badRow?: number;
  /** What happens, in order. */
  log?: string[];
}

async function run(folder: string, settings: Settings = {}) {
  const { resume = false, stopAfter = -1, everySteps, poison = -1, spike = -1, guard = {}, notes = [] } = settings;
  const { stepsPerEpoch = 5, badRow = -1, log = [] } = settings;
  const plan = planRun([{ name: 'warm', steps: 4 }], 3, stepsPerEpoch, (epoch) => epoch);
  const checkpoint = resume ? readLatestCheckpoint(folder) : null;
  const trainee = regression(checkpoint, poison, spike);
  let done = checkpoint?.state.step ?? 0;
  const parts: TrainRun = {
    plan,
    trainee,
    batches: async (position) => {
      const step = position.phase.start + position.phaseStep;
      log.push(`batch ${step}`);
      if (step === badRow) throw new UserError(`row ${step} is bad`);
      return [0.25, 0.75].map((weight) => {
        const images = [{ pixels: ones([2]) }];
        return { batch: { images } as unknown as MicroBatch['batch'], stage: 0, ids: [`row ${step}`], weight };
      });
    },
    validation: {
      isDue: ({ phase, epochEnd }) => phase.kind === 'stage' && epochEnd,
      measure: async ({ epoch }) => ({ accuracy: [0.25, 0.5, 0.5][epoch]!, samples: 4, autoregressiveSteps: 3 }),
    },
    recipe: loopSchema.parse({
      optimizer: { lr: 0.05, clip: 1 },
      schedule: { warmupSteps: 2, decayTo: 0.1 },
      pretrain: [{ name: 'warm', steps: 4, mix: [{ task: 'any', batch: 1 }], lr: 0.01 }],
      resetOptimizerAtStage: true,
      checkpoint: { everySteps: everySteps ?? null, keep: 2, stageModels: true, best: true },
      guard,
      tensorboard: true,
      out: folder,
    }),
    device: 'cpu',
    resume: checkpoint,
    reporter: {
      step: () => {
        log.push(`step ${done}`);
        done++;
      },
      note: (text) => notes.push(text),
    },
    stopRequested: () => (done === stopAfter ? 'SIGINT' : null),
  };
  try {
    return await runTraining(parts);
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

  it('says in one sentence which part of a checkpoint is damaged', async () => {
    await run(out, { stopAfter: 6 });
    const folder = join(out, 'checkpoints', 'step-00000006');
    const state = readFileSync(join(folder, 'state.json'), 'utf8');
    const optimizer = readFileSync(join(folder, 'optimizer.safetensors'));
    const resumed = async () => {
      const error = await run(out, { resume: true }).then(
        () => null,
        (reason: unknown) => reason,
      );
      expect(error).toBeInstanceOf(UserError);
      expect((error as UserError).message.split('\n')).toHaveLength(1);
      return (error as UserError).message;
    };
    const change = (fields: object) => JSON.stringify({ ...JSON.parse(state), ...fields });
    for (const text of [
      'null',
      '[]',
      change({ step: -1 }),
      change({ step: 1e300 }),
      change({ rng: null }),
      change({ seconds: 'x' }),
    ]) {
      writeFileSync(join(folder, 'state.json'), text);
      expect(await resumed()).toMatch(/state\.json is damaged \(.*\); remove .*step-00000006/);
    }
    writeFileSync(join(folder, 'state.json'), change({ rng: { cpu: 'AAAA' } }));
    expect(await resumed()).toMatch(/^the checkpoint cannot be gone on from: .*state\.json: /);
    writeFileSync(join(folder, 'state.json'), change({ version: 7 }));
    expect(await resumed()).toContain('is a checkpoint of version 7; this program reads version 1');
    writeFileSync(join(folder, 'state.json'), state);
    writeFileSync(join(folder, 'optimizer.safetensors'), optimizer.subarray(0, 40));
    expect(await resumed()).toMatch(/^the checkpoint cannot be gone on from: .*optimizer\.safetensors/);
    writeFileSync(join(folder, 'optimizer.safetensors'), optimizer.subarray(0, optimizer.length - 4));
    expect(await resumed()).toMatch(/^the checkpoint cannot be gone on from: .*optimizer\.safetensors/);
    rmSync(join(folder, 'optimizer.safetensors'));
    expect(await resumed()).toMatch(/^the checkpoint cannot be gone on from: .*optimizer\.safetensors/);
    writeFileSync(join(folder, 'optimizer.safetensors'), optimizer);
    expect((await run(out, { resume: true })).stopped).toBeNull();
  });

  it('takes no path from the pointer to the latest checkpoint', async () => {
    await run(out, { everySteps: 3 });
    writeFileSync(join(out, 'checkpoints', 'latest'), '../../elsewhere\n');
    expect(readLatestCheckpoint(out)!.folder).toBe(join(out, 'checkpoints', 'step-00000019'));
  });

  it('keeps only the newest checkpoints', async () => {
    await run(out, { everySteps: 3 });
    expect(readdirSync(join(out, 'checkpoints')).sort()).toEqual(['latest', 'step-00000018', 'step-00000019']);
    expect(JSON.parse(readFileSync(join(out, 'run.json'), 'utf8'))).toMatchObject({ totalSteps: 19, recipe: { out } });
  });

  it('stops at a loss that is no number, names the batch and keeps the checkpoint', async () => {
    await expect(run(out, { everySteps: 3, poison: 7 })).rejects.toThrow(
      /stopped at step 8 \(stage-0\): the loss is NaN on the batch of samples row 7; .*step-00000006/,
    );
    expect(readLatestCheckpoint(out)!.state.step).toBe(6);
  });

  it('checkpoints before it validates, and validates again what a kill cut off', async () => {
    const notes: string[] = [];
    await run(out, { stopAfter: 9, notes });
    // Stopped at the end of an epoch: the checkpoint is there, the validation is not.
    expect(notes).toEqual([]);
    await run(out, { resume: true, notes });
    const validations = readMetrics(join(out, 'metrics.jsonl')).filter((entry) => entry.kind === 'validation');
    expect(validations.map(({ step, accuracy }) => [step, accuracy])).toEqual([
      [9, 0.25],
      [14, 0.5],
      [19, 0.5],
    ]);
    expect(notes[0]).toBe('epoch 0 (stage-0): accuracy 0.250 on 4 held-out samples, 3.0 steps each');
  });

  it('keeps the best model, the earlier of two equals', async () => {
    await run(out, {});
    const best = JSON.parse(readFileSync(join(out, 'best', 'validation.json'), 'utf8'));
    expect(best).toEqual({ step: 14, epoch: 1, accuracy: 0.5, samples: 4, autoregressiveSteps: 3 });
    const kept = readFileSync(join(out, 'best', 'model.safetensors'));
    expect(kept.equals(readFileSync(join(out, 'models', 'stage-1', 'model.safetensors')))).toBe(true);
  });

  it('writes TensorBoard events, in a further file when resumed', async () => {
    await run(out, { stopAfter: 6 });
    await run(out, { resume: true });
    const files = readdirSync(join(out, 'tensorboard')).sort();
    expect(files).toHaveLength(2);
    const [first, second] = files.map((name) => readFileSync(join(out, 'tensorboard', name), 'latin1'));
    expect(first!.split('train/loss').length - 1).toBe(6);
    expect(second!.split('train/loss').length - 1).toBe(13);
    expect(second!.split('validation/accuracy').length - 1).toBe(3);
  });

  it('names the samples of a spike; leaves them out or stops where that is asked for', async () => {
    // Step 30 is row 29, in the middle of the first stage.
    const spiky = { stepsPerEpoch: 40, spike: 29 };
    const notes: string[] = [];
    const told = /^step 30: the loss \d+\.\d+ is far above the usual \d\.\d+ on the samples row 29, row 29/;
    const changed = async (name: string, guard: Partial<GuardOptions>) => {
      const folder = join(out, name);
      await run(folder, { ...spiky, guard, notes: notes.splice(0) && notes });
      return weights(folder);
    };
    const off = await changed('off', {});
    expect(notes.filter((note) => note.startsWith('step'))).toEqual([]);
    const warned = await changed('warned', { spikeFactor: 10 });
    expect(notes[0]).toMatch(told);
    expect(warned.equals(off)).toBe(true);
    const skipped = await changed('skipped', { spikeFactor: 10, onSpike: 'skip' });
    expect(notes[0]).toMatch(/they are left out$/);
    expect(skipped.equals(off)).toBe(false);
    // Resumed right after the spike, the guard knows the same history.
    const parts = join(out, 'parts');
    const guard = { spikeFactor: 10, onSpike: 'skip' as const };
    await run(parts, { ...spiky, guard, stopAfter: 29 });
    await run(parts, { ...spiky, guard, resume: true });
    expect(weights(parts).equals(skipped)).toBe(true);
    await expect(run(join(out, 'stopped'), { ...spiky, guard: { spikeFactor: 10, onSpike: 'stop' } })).rejects.toThrow(
      /stopped at step 30 \(stage-0\): the loss .*samples row 29, row 29/,
    );
  });

  it('starts each batch before the step before it, makes none beyond the end, and frees what is not used', async () => {
    const log: string[] = [];
    await run(out, { log });
    const steps = Array.from({ length: 19 }, (_, step) => step);
    expect(log).toEqual([
      'batch 0',
      ...steps.flatMap((step) => [...(step < 18 ? [`batch ${step + 1}`] : []), `step ${step}`]),
    ]);
    // Stopped, the started batch is freed (afterEach counts the tensors) and made again by the run that goes on.
    const stopped: string[] = [];
    await run(join(out, 'stopped'), { log: stopped, stopAfter: 3 });
    expect(stopped.at(-2)).toBe('batch 3');
    const resumed: string[] = [];
    await run(join(out, 'stopped'), { log: resumed, resume: true });
    expect(resumed.slice(0, 2)).toEqual(['batch 3', 'batch 4']);
  });

  it('throws what is wrong with a batch at its own step, not while the one before runs', async () => {
    await expect(run(out, { badRow: 6, everySteps: 1 })).rejects.toThrow('row 6 is bad');
    expect(readLatestCheckpoint(out)!.state.step).toBe(6);
  });
});
