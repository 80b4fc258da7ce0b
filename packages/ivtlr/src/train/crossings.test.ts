/** How often a training step waits for a GPU, counted on the CPU. */
import { type Crossings, countCrossings, scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type TinyRow, tinyBatch, tinyModel } from '../../../../test/tiny-model.ts';
import { LATENT_DEFAULTS } from '../latent/options.ts';
import type { Qwen2VL } from '../models/qwen2-vl/model.ts';
import { ALONE } from '../parallel/ranks.ts';
import { WholeUpdate } from '../parallel/update.ts';
import { type LossOptions, trainingLoss } from './loss.ts';
import { type Trainee, trainStep } from './step.ts';

setNumThreads(1);

const ROWS: TinyRow[] = [
  { before: [1, 2, 3], after: [4, 5], grid: [3, 4], latentSteps: 2, seed: 1, text: [6, 7, 8] },
  { before: [6], after: [7, 8], grid: [2, 4], latentSteps: 2, seed: 2, text: [9, 10] },
];
const OPTIONS: LossOptions = {
  ...LATENT_DEFAULTS,
  patches: 2,
  latentGradient: 'detached',
  pickSupervision: 0,
};

let model: Qwen2VL;
beforeAll(() => {
  model = tinyModel({ seed: 3 });
});
afterAll(() => model.dispose());

/** Of the second of two alike steps: what is made once is there. */
function step(micros: number, latentSteps: number, options: Partial<LossOptions> = {}): Crossings {
  return scope(() => {
    const parameters = model.namedParameters();
    const settings = { lr: 1e-3, betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0 } as const;
    const update = new WholeUpdate(parameters, { ...settings, masterWeights: true });
    const batch = tinyBatch(ROWS.map((row) => ({ ...row, latentSteps })));
    const trainee: Trainee = {
      parameters,
      loss: (micro) => trainingLoss(model, micro.batch, { ...OPTIONS, ...options }),
      files: () => [],
    };
    const own = Array.from({ length: micros }, (_, i) => ({ batch, stage: 0, ids: [`row ${i}`], weight: 1 / micros }));
    const parts = { ranks: ALONE, update, lr: 1e-3, clip: 1 };
    try {
      trainStep(trainee, own, parts);
      return countCrossings(() => trainStep(trainee, own, parts));
    } finally {
      update.dispose();
    }
  });
}

test.each<[string, Partial<LossOptions>]>([
  ['detached', {}],
  ['through, with supervised picks', { latentGradient: 'through', pickSupervision: 1 }],
  ['checkpointed', { activationCheckpointing: true }],
])('%s: a step reads its picks, and at its end all numbers of all micro-batches at once', (_, options) => {
  for (const [micros, latentSteps] of [
    [1, 0],
    [2, 0],
    [1, 2],
    [2, 3],
  ] as const)
    expect(step(micros, latentSteps, options).reads, `${micros} ${latentSteps}`).toBe(1 + micros * latentSteps);
});

test('what a step sends: of each micro-batch its text and where it stands, of each latent step positions and tokens that were used', () => {
  const perMicro = step(1, 1).uploads;
  expect(perMicro).toBeLessThanOrEqual(12);
  for (const [micros, latentSteps] of [
    [2, 1],
    [1, 3],
    [2, 3],
  ] as const)
    expect(step(micros, latentSteps).uploads).toBe(micros * (perMicro + 2 * (latentSteps - 1)));
});
