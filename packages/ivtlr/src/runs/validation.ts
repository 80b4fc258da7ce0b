/** Held-out accuracy while a run trains: on samples that are never drawn from the training stream or split. */
import type { Recipe } from '../config/schema.ts';
import type { BadRows } from '../data/row.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import { evaluate, generatedSamples } from '../eval/runner.ts';
import { streamSamples } from '../tasks/read-samples.ts';
import type { Task } from '../tasks/task.ts';
import type { Validation } from '../train/loop.ts';
import { latentStepsAfter, settingsFor } from './settings.ts';

/**
 * @param folder of the data; null where samples are drawn
 * @param onBad told of rows that are left out; without it they are errors
 */
export function heldOutValidation(
  recipe: Recipe,
  task: Task,
  opened: LoadedModel,
  folder: string | null,
  onBad: ((bad: BadRows) => void) | undefined,
): Validation {
  const { samples, everyEpochs, batch, maxNewTokens } = recipe.data.validation;
  const heldOut = () =>
    folder === null
      ? generatedSamples(task, recipe.seed, 'validation', samples)
      : streamSamples(folder, task, { split: 'validation', limit: samples, columnNames: recipe.data.columns, onBad });
  return {
    isDue: ({ epoch, epochEnd, phaseEnd }) =>
      samples > 0 && (phaseEnd || (epochEnd && everyEpochs !== null && (epoch + 1) % everyEpochs === 0)),
    measure: async ({ phase }) => {
      opened.model.module.eval();
      const settings = settingsFor(recipe, task, opened, latentStepsAfter(recipe, phase));
      const result = await evaluate({ ...opened, settings }, task, heldOut(), {
        ...{ name: 'validation', batch, maxNewTokens },
        imageThreads: folder === null ? 0 : recipe.data.threads,
      });
      opened.model.module.train();
      return {
        accuracy: result.correctStrict / result.samples,
        samples: result.samples,
        autoregressiveSteps: result.autoregressiveSteps,
      };
    },
  };
}
