import { expect, test } from 'vitest';
import { loadRecipe } from '../config/load.ts';
import { stagesOf } from './trainable.ts';

const stages = (...set: string[]) => stagesOf(loadRecipe('dominoes', set));

test('the stages that a run trains, each once', () => {
  expect(stages('numEpochs=4', 'latent.epochsPerStage=2', 'latent.replay=0')).toEqual([0, 1]);
  expect(stages('numEpochs=4', 'latent.epochsPerStage=[0,0,0,1]', 'latent.replay=0')).toEqual([3]);
  expect(stages('numEpochs=9', 'latent.epochsPerStage=1', 'latent.maxLatentStage=2', 'latent.replay=0')).toEqual([
    0, 1, 2, 3,
  ]);
  expect(stages('numEpochs=4', 'latent.epochsPerStage=[0,0,0,1]', 'latent.replay=0.5')).toEqual([3, 1, 2]);
  expect(stages('mode=cot', 'latent.pickSupervision=0', 'numEpochs=4', 'latent.epochsPerStage=1')).toEqual([0]);
  expect(stages('numEpochs=0')).toEqual([]);
});
