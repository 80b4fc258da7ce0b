/** A batch that tests of the training loss work on: rows of different lengths with latent steps, picks and carried values that are told. */
import { LATENT_DEFAULTS } from '../packages/ivtlr/src/latent/options.ts';
import type { LossOptions } from '../packages/ivtlr/src/train/loss.ts';
import type { TinyRow } from './tiny-model.ts';

export const LOSS_ROWS: TinyRow[] = [
  {
    before: [1, 2],
    after: [3, 4, 5],
    grid: [2, 3],
    latentSteps: 2,
    text: [10, 11, 12],
    seed: 1,
    pickTargets: [[0, 3], [5]],
    carried: { targets: [21, 23], values: [20, 21, 22, 23] },
  },
  {
    before: [6],
    after: [7],
    grid: [2, 2],
    latentSteps: 2,
    text: [13, 14, 15, 16, 17],
    seed: 2,
    pickTargets: [[], [1]],
    carried: { targets: [20, 20], values: [20, 21, 22, 23] },
  },
];

export const LOSS_OPTIONS: LossOptions = {
  ...LATENT_DEFAULTS,
  patches: 2,
  latentGradient: 'through',
  pickSupervision: 0,
};
