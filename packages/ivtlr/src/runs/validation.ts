/** Held-out accuracy while a run trains: on samples that are never drawn from the training stream or split. */
import type { Recipe } from '../config/schema.ts';
import { findDataFiles } from '../data/find-files.ts';
import type { BadRows } from '../data/row.ts';
import type { Sample } from '../data/sample.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import { answerable } from '../eval/answerable.ts';
import { evaluate, generatedSamples } from '../eval/runner.ts';
import type { Ranks } from '../parallel/ranks.ts';
import { streamSamples } from '../tasks/read-samples.ts';
import type { Task } from '../tasks/task.ts';
import type { Validation } from '../train/loop.ts';
import { together } from './processes.ts';
import { settingsFor, stageAfter } from './settings.ts';
import { stagesOf } from './trainable.ts';

/**
 * @param folder of the data; null where samples are drawn
 * @param onBad told of rows that are left out; without it they are errors
 */
export function heldOutValidation(
  recipe: Recipe,
  task: Task,
  opened: LoadedModel,
  folder: string | null,
  ranks: Ranks,
  onBad: ((bad: BadRows) => void) | undefined,
): Validation {
  const { samples, everyEpochs, batch, maxNewTokens } = recipe.data.validation;
  // The same rows are left out whatever stage the run is in.
  const settings = settingsFor(recipe, task, opened, Math.max(0, ...stagesOf(recipe)));
  const usable = answerable(
    { ...opened, settings },
    { task: task.name, maxPositions: opened.model.maxPositions, latentSteps: settings.latents },
  );
  const heldOut = () =>
    folder === null
      ? generatedSamples(task, recipe.seed, 'validation', samples)
      : streamSamples(folder, task, {
          ...{ split: 'validation', limit: samples, columnNames: recipe.data.columns },
          ...{ onBad, usable },
        });
  return {
    isDue: ({ epoch, epochEnd, phaseEnd }) =>
      samples > 0 && (phaseEnd || (epochEnd && everyEpochs !== null && (epoch + 1) % everyEpochs === 0)),
    measure: async ({ phase }) => {
      opened.model.module.eval();
      const settings = settingsFor(recipe, task, opened, stageAfter(phase));
      const own = await together(ranks, async () => {
        const share = await started(everyNth(heldOut(), ranks));
        if (share === null && ranks.size > 1) return null;
        return evaluate({ ...opened, settings }, task, share ?? [], {
          ...{ name: 'validation', batch, maxNewTokens },
          imageThreads: folder === null ? 0 : recipe.data.threads,
        });
      }).finally(() => opened.model.module.train());
      const { correctStrict = 0, samples: answered = 0, autoregressiveSteps = 0 } = own ?? {};
      const sums = ranks.sum([correctStrict, answered, autoregressiveSteps * answered], 'held-out answers');
      const [correct, all, steps] = sums as [number, number, number];
      if (all === 0) throw new UserError('there are no held-out samples to answer');
      return { accuracy: correct / all, samples: all, autoregressiveSteps: steps / all };
    },
  };
}

/**
 * Looks for the held-out samples before the first step, so that a run does not end for the lack of them hours later.
 * @throws UserError saying what is missing and what can be done about it
 */
export async function requireHeldOut({ data }: Recipe, folder: string | null): Promise<void> {
  const { samples } = data.validation;
  if (folder === null || samples === 0) return;
  await findDataFiles(folder, 'train');
  try {
    await findDataFiles(folder, 'validation');
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(
      `${error.message}; the run answers ${samples} of its rows from time to time: add it, or set data.validation.samples to 0`,
    );
  }
}

/** The samples of one process: they are dealt out in turn. */
async function* everyNth(
  samples: AsyncIterable<Sample> | Iterable<Sample>,
  { rank, size }: Ranks,
): AsyncGenerator<Sample> {
  let place = 0;
  for await (const sample of samples) if (place++ % size === rank) yield sample;
}

/** The same samples, or null when there are none. */
async function started(samples: AsyncGenerator<Sample>): Promise<AsyncGenerator<Sample> | null> {
  const first = await samples.next();
  if (first.done) return null;
  return (async function* () {
    yield first.value;
    yield* samples;
  })();
}
