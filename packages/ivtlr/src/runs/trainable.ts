/** Whether a model can be trained on a sample, found out before the run starts. */
import type { Recipe } from '../config/schema.ts';
import { renderTraining, tokenizeSample } from '../data/render.ts';
import type { Sample } from '../data/sample.ts';
import { stageOf } from '../latent/curriculum.ts';
import type { ImageInputs } from '../models/types.ts';
import { type BatchOptions, requirePositions, stagePlan } from '../train/batches.ts';

/**
 * For `openSource`.
 * @returns a function that throws a UserError for a sample whose images the model cannot read, whose text it cannot take, or that is too long for
 * it in a stage of the run
 */
export function trainable(
  recipe: Recipe,
  inputs: ImageInputs,
  options: Pick<BatchOptions, 'answerOnly' | 'latent' | 'render' | 'maxPositions' | 'patches'>,
): (sample: Sample) => Promise<void> {
  const stages = stagesOf(recipe);
  return async (sample) => {
    const images = [];
    for (const image of sample.images) images.push(inputs.layout(await inputs.prepare(image)));
    const tokenized = await tokenizeSample(sample, images, 'train', options.render);
    for (const stage of stages) {
      const plan = stagePlan(stage, tokenized.stepIds.length, options);
      requirePositions(sample.id, renderTraining(tokenized, plan), options);
    }
  };
}

/** The latent stages that a run trains, those that it replays too. */
export function stagesOf({ mode, numEpochs, latent }: Pick<Recipe, 'mode' | 'numEpochs' | 'latent'>): number[] {
  if (mode !== 'ivt-lr' && mode !== 'coconut') return [0];
  // Stages beyond the last one are all alike.
  const stageAt = (epoch: number) => Math.min(stageOf(epoch, latent.epochsPerStage), latent.maxLatentStage + 1);
  const stages = new Set(Array.from({ length: numEpochs }, (_, epoch) => stageAt(epoch)));
  if (latent.replay > 0) for (let stage = 1; stage < Math.max(...stages); stage++) stages.add(stage);
  return [...stages];
}
