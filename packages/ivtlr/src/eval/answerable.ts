/** Whether a model can answer a sample, found out before it is asked. */
import { tokenizeSample } from '../data/render.ts';
import type { Sample } from '../data/sample.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import { requireRoomToAnswer } from '../latent/embed-rows.ts';

export interface AnswerableOptions {
  task: string;
  maxPositions: number;
  latentSteps: number;
  /** Tokens that an answer is started with. */
  startTokens?: number;
}

/**
 * For `streamSamples`.
 * @returns a function that throws a UserError for a sample whose images the model cannot read, or whose prompt it cannot take
 */
export function answerable(
  { inputs, settings, renderOptions }: Pick<LoadedModel, 'inputs' | 'settings' | 'renderOptions'>,
  { task, maxPositions, latentSteps, startTokens = 0 }: AnswerableOptions,
): (sample: Sample) => Promise<void> {
  return async (sample) => {
    const images = [];
    for (const image of sample.images) images.push(inputs.layout(await inputs.prepare(image)));
    const { promptIds, afterLatentIds } = await tokenizeSample(sample, images, 'infer', renderOptions(task));
    const read = promptIds.length + afterLatentIds.length + startTokens;
    requireRoomToAnswer(read + latentSteps * (settings.patches + 1), maxPositions);
  };
}
