/** What the flags of an evaluation stand for: an opened model, a task and its samples. */
import { setNumThreads } from '@ivtlr/torch';
import type { Sample } from '../data/sample.ts';
import { type ModelFolder, openModelFolder } from '../engine/model-folder.ts';
import { UserError } from '../errors.ts';
import { generatedSamples, storedSamples } from '../eval/runner.ts';
import { dataFolder, modelFolder } from '../hub/resolve.ts';
import { DATASETS } from '../tasks/datasets.ts';
import { findTask } from '../tasks/registry.ts';
import type { Task } from '../tasks/task.ts';
import { SkippedRows } from './data-flags.ts';
import { DEFAULT_BATCH, type EvaluationFlags, GENERATED_SAMPLES } from './evaluation-flags.ts';

/** Of samples from files; drawn images are ready. */
const IMAGE_THREADS = 2;

export interface Evaluation {
  /** The caller disposes of its module, or leaves it to the end of the process. */
  opened: ModelFolder;
  task: Task;
  /** Where stored samples come from; null for fresh ones. */
  data: string | null;
  /** Samples to be answered together, and threads for their images. */
  batch: number;
  imageThreads: number;
  /** The same samples each time it is called. */
  samples(): AsyncIterable<Sample> | Iterable<Sample>;
  /** How many there will be, null when only reading shows it. */
  total: number | null;
  /** Rows left out; counted in the first pass alone. */
  skipped: SkippedRows;
}

/** @throws UserError when model, task or data are unusable */
export async function openEvaluation(flags: EvaluationFlags): Promise<Evaluation> {
  const { split, seed, device, dtype } = flags;
  if (flags.threads !== undefined) setNumThreads(flags.threads);
  const opened = openModelFolder(await modelFolder(flags.model), { device, ...(dtype && { dtype }) });
  opened.model.module.eval();
  const name = flags.task ?? opened.settings.task;
  if (!name) throw new UserError(`${flags.model} does not say which task it was trained on; give --task`);
  const task = findTask(name);
  const source = flags.data ?? (task.generator ? undefined : DATASETS[task.name]?.repo);
  const data = source === undefined ? undefined : await dataFolder(source);
  const limit = flags.limit ?? flags.rows ?? (data ? Number.POSITIVE_INFINITY : GENERATED_SAMPLES);
  const skipped = new SkippedRows();
  const onBad = skipped.handler(flags);
  let passes = 0;
  return {
    opened,
    task,
    data: data ?? null,
    batch: flags.batch ?? DEFAULT_BATCH[data === undefined ? 'generated' : 'stored'],
    imageThreads: data === undefined ? 0 : IMAGE_THREADS,
    samples: () => {
      if (!data) return generatedSamples(task, seed, split, limit);
      const first = passes++ === 0;
      return storedSamples(task, data, split, limit, onBad && (first ? onBad : () => {}));
    },
    total: Number.isFinite(limit) ? limit : null,
    skipped,
  };
}
