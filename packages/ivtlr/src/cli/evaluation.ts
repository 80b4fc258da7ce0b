/** What the flags of an evaluation stand for: an opened model, a task and its samples. */
import { statSync } from 'node:fs';
import { setNumThreads } from '@ivtlr/torch';
import { defaultSplit } from '../data/find-files.ts';
import type { Sample } from '../data/sample.ts';
import { type AnswerNeeds, requireRoomForAnswers } from '../engine/answer-memory.ts';
import { openToAnswer } from '../engine/open-to-answer.ts';
import { UserError } from '../errors.ts';
import { answerable } from '../eval/answerable.ts';
import { type AskedModel, generatedSamples } from '../eval/runner.ts';
import { AnswerPool } from '../pool/answer-pool.ts';
import { DATASETS } from '../tasks/datasets.ts';
import { streamSamples } from '../tasks/read-samples.ts';
import type { Split, Task } from '../tasks/task.ts';
import { loadTask } from '../tasks/task-file.ts';
import { noteUntrainedLatentSteps, openingFromFlags } from './asking-flags.ts';
import { SkippedRows } from './data-flags.ts';
import { deviceOfFlag, noteDevice } from './device.ts';
import { DEFAULT_BATCH, type EvaluationFlags, GENERATED_SAMPLES } from './evaluation-flags.ts';
import { dataFolder, modelFolder } from './hub-folders.ts';

/** Threads that decode the images of stored samples; generated images need no decoding. */
const IMAGE_THREADS = 2;

export interface Evaluation {
  opened: AskedModel;
  /** `cpu` or a GPU. */
  device: string;
  /** The folder that was opened: of an adapter its own, not its base's. */
  folder: string;
  task: Task;
  /** As asked for, or what there is. */
  split: string;
  /** Where stored samples come from; null for fresh ones. */
  data: string | null;
  /** Samples to be answered together in a process, and its threads for their images. */
  batch: number;
  imageThreads: number;
  /** The same samples each time it is called. */
  samples(): AsyncIterable<Sample> | Iterable<Sample>;
  /** How many there will be, null when only reading shows it. */
  total: number | null;
  /** Rows left out; counted in the first pass alone. */
  skipped: SkippedRows;
  /** Gives back what the model holds. What is not closed ends with this process. */
  close(): Promise<void>;
}

/**
 * @param latentSteps latent steps that will be taken; default: as the model was trained
 * @param answerStart text that answers are started with
 * @throws UserError when model, task or data are unusable, or the memory will not do
 */
export async function openEvaluation(
  flags: EvaluationFlags,
  latentSteps?: number,
  answerStart?: string,
): Promise<Evaluation> {
  const { seed, column, processes = 1 } = flags;
  refuseLaunchers();
  const folder = await modelFolder(flags.model);
  const { opened, device, maxPositions, requireRoom, close } =
    processes > 1 ? await openPool(flags, folder) : await openHere(flags, folder);
  noteUntrainedLatentSteps(flags.model, folder, opened, latentSteps);
  const name = flags.task ?? opened.settings.task;
  if (!name) throw new UserError(`${flags.model} does not say which task it was trained on; give --task`);
  const task = await loadTask(name);
  const source = flags.data ?? (task.generator ? undefined : DATASETS[task.name]?.repo);
  const data = source === undefined ? undefined : await dataFolder(source);
  if (data === undefined && column) throw new UserError('--column names columns of files; give them with --data');
  const split = data === undefined ? (flags.split ?? 'test') : await splitOf(data, flags.split);
  const limit = flags.limit ?? flags.rows ?? (data ? Number.POSITIVE_INFINITY : GENERATED_SAMPLES);
  const skipped = new SkippedRows();
  const onBad = skipped.handler(flags);
  const batch = flags.batch ?? DEFAULT_BATCH[data === undefined ? 'generated' : 'stored'];
  await requireRoom({ rows: Math.min(batch * processes, limit), latentSteps, maxNewTokens: flags.maxNewTokens });
  const [start = []] = answerStart === undefined ? [] : await opened.tokenizer.encodeBatch([answerStart]);
  // The same rows are left out whatever latent steps a run takes away.
  const usable = answerable(opened, {
    ...{ task: task.name, maxPositions, startTokens: start.length },
    latentSteps: Math.max(latentSteps ?? 0, opened.settings.latents),
  });
  let passes = 0;
  return {
    ...{ opened, device, folder, task, split, batch, skipped, close },
    data: data ?? null,
    imageThreads: data === undefined ? 0 : IMAGE_THREADS,
    samples: () => {
      if (!data) return generatedSamples(task, seed, split as Split, limit);
      const first = passes++ === 0;
      return streamSamples(data, task, {
        split,
        limit,
        columnNames: column,
        onBad: onBad && (first ? onBad : () => {}),
        usable,
      });
    },
    total: Number.isFinite(limit) ? limit : null,
  };
}

interface Opened extends Pick<Evaluation, 'opened' | 'device' | 'close'> {
  maxPositions: number;
  /** @throws UserError when the memory will not do for so many answers at a time */
  requireRoom(needs: AnswerNeeds): void | Promise<void>;
}

async function openHere(flags: EvaluationFlags, folder: string): Promise<Opened> {
  const { dtype, threads } = flags;
  const device = await deviceOfFlag(flags.device);
  if (threads !== undefined) setNumThreads(threads);
  const opened = openToAnswer(folder, {
    ...{ device, ...openingFromFlags(flags) },
    ...(dtype && { dtype }),
  });
  return {
    opened,
    device: opened.model.device,
    maxPositions: opened.model.maxPositions,
    requireRoom: (needs) => requireRoomForAnswers(opened, needs),
    close: async () => opened.model.module.dispose(),
  };
}

async function openPool(flags: EvaluationFlags, folder: string): Promise<Opened> {
  const { dtype, threads, device, processes } = flags;
  const pool = await AnswerPool.open({
    processes: processes!,
    model: {
      ...{ folder, device, deviceSetting: '--device', ...openingFromFlags(flags) },
      ...(dtype && { dtype }),
    },
    threads,
    note: (line) => void process.stderr.write(`${line}\n`),
    deviceNote: noteDevice,
  });
  return {
    opened: pool,
    device: pool.device,
    maxPositions: pool.maxPositions,
    requireRoom: (needs) => pool.requireRoom(needs),
    close: () => pool.close(),
  };
}

/** Processes that a launcher has started would all answer the same samples and write the same file. */
function refuseLaunchers(): void {
  if (Number(process.env.WORLD_SIZE ?? 1) > 1) {
    throw new UserError(
      'this command starts its processes itself: run it once, with --processes, and not by a launcher (WORLD_SIZE is set)',
    );
  }
}

/** The split of a data folder that is meant; says so where it is another than the usual one. */
async function splitOf(data: string, asked: Split | undefined): Promise<string> {
  if (asked !== undefined) return asked;
  const split = await defaultSplit(data, 'test');
  if (split !== 'test' && statSync(data).isDirectory())
    process.stderr.write(`${data} has no split test; its only one is taken: ${split}\n`);
  return split;
}
