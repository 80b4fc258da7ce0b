/** What a run trains on: samples drawn by the task, or stored ones, which are read once, shuffled anew each epoch and prepared ahead by threads. */
import type { Recipe } from '../config/schema.ts';
import { Prefetch } from '../data/prefetch.ts';
import type { BadRows } from '../data/row.ts';
import type { RawImage, Sample, SampleSource } from '../data/sample.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import type { ImageInputs, ProcessedImage } from '../models/types.ts';
import { ALONE, type Ranks } from '../parallel/ranks.ts';
import { readSamples, type StreamSamplesOptions } from '../tasks/read-samples.ts';
import { badRowsOf, RowShare, SharedRows, type StoredSamples } from '../tasks/shared-rows.ts';
import type { SampleGenerator, Split, Task } from '../tasks/task.ts';
import { epochOrder, isOwnChunk } from '../train/batches.ts';
import type { TrainReporter } from '../train/loop.ts';
import { ImagePool } from '../vision/image-pool.ts';
import { launched, together } from './processes.ts';

export interface TrainingDataOptions {
  seed: number;
  split?: Split;
  /** The task's column -> its name in the files, where that is another. */
  columnNames?: Readonly<Record<string, string>> | undefined;
  /** Fewer than there are: each epoch takes the first of its own order. */
  samplesPerEpoch?: number | undefined;
  /** Nothing is prepared beyond the last epoch. */
  epochs: number;
  /** Threads that prepare images; 0: the trainer's own thread does it when it needs them. */
  threads: number;
  /** Samples prepared beyond the one asked for. About two global batches. */
  ahead: number;
  /** Whether the sample at a place of an epoch is asked for by this process; default: all are. */
  isOwn?: ((place: number) => boolean) | undefined;
  /** Called with rows that are left out; without it they are errors. */
  onBad?: ((bad: BadRows) => void) | undefined;
  /** With `onBad`: throws a UserError for a sample that the model cannot take. */
  usable?: StreamSamplesOptions['usable'];
  /** Processes that read the files between them; all of them call `openTrainingData`. Default: this one alone. */
  ranks?: Ranks;
}

/** A source with its images; `close` when training has ended, however it did. */
export interface OpenSampleSource extends SampleSource {
  processImage(image: RawImage): Promise<ProcessedImage>;
  close(): Promise<void>;
}

/**
 * Which sample stands at a place depends on seed, epoch and place alone, so a resumed run sees what the first one would have seen.
 * @throws UserError when files or rows are unusable, or no row has an image
 */
export async function openTrainingData(
  folder: string,
  task: Task,
  inputs: ImageInputs,
  options: TrainingDataOptions,
): Promise<OpenSampleSource> {
  const { seed, split = 'train', columnNames, epochs, threads, ahead, isOwn, onBad, usable, ranks = ALONE } = options;
  const reading: StreamSamplesOptions = { split, columnNames, onBad, usable, purpose: 'train' };
  const stored =
    ranks.size === 1
      ? inMemory(await readSamples(folder, task, reading))
      : await readTogether(folder, task, reading, ranks);
  let shuffled: { epoch: number; order: number[] } | null = null;
  const source = {
    samplesPerEpoch: Math.min(stored.length, options.samplesPerEpoch ?? stored.length),
    sample: async (epoch: number, place: number): Promise<Sample> => {
      if (shuffled?.epoch !== epoch) shuffled = { epoch, order: epochOrder(seed, epoch, stored.length) };
      return stored.sample(shuffled.order[place]!);
    },
  };
  if (threads === 0) {
    const close = async () => stored[Symbol.dispose]();
    return { ...source, processImage: (image) => inputs.processImage(image), close };
  }
  const pool = new ImagePool(inputs.preparation, threads);
  const prefetch = new Prefetch(source, pool, inputs, { ahead, epochs, ...(isOwn && { isOwn }) });
  return {
    samplesPerEpoch: source.samplesPerEpoch,
    sample: (epoch, place) => prefetch.sample(epoch, place),
    processImage: (image) => prefetch.processImage(image),
    close: async () => {
      prefetch.clear();
      await pool.close();
      stored[Symbol.dispose]();
    },
  };
}

function inMemory(samples: readonly Sample[]): StoredSamples {
  return { length: samples.length, sample: (number) => samples[number]!, [Symbol.dispose]() {} };
}

/**
 * The processes of each machine read its files once between them. Each hears of all bad rows.
 * @throws UserError in all processes, when files or rows are unusable in one of them, or no row has an image
 */
async function readTogether(
  folder: string,
  task: Task,
  options: StreamSamplesOptions,
  ranks: Ranks,
): Promise<StoredSamples> {
  const { localRank: index = 0, localWorldSize: of = 1 } = launched() ?? {};
  using own = await together(ranks, () => RowShare.read(folder, task, options, { index, of }));
  const all = ranks.texts(own.description, 'who has read which rows');
  for (const bad of badRowsOf(all)) options.onBad?.(bad);
  // Nobody gives up its share before all have opened it.
  return await together(ranks, async () => {
    const rows = SharedRows.open(all, task) ?? (await readAlone(folder, task, options));
    if (rows.length === 0) throw new UserError(`${folder}: no row has an image`);
    return rows;
  });
}

/** For a process that cannot read what the others have stored. */
async function readAlone(folder: string, task: Task, options: StreamSamplesOptions): Promise<StoredSamples> {
  return inMemory(await readSamples(folder, task, options));
}

/**
 * The samples of a recipe.
 * @param folder of the data; null where the task draws samples
 */
export async function openSource(
  recipe: Recipe,
  task: Task,
  folder: string | null,
  { inputs, processImage }: LoadedModel,
  ranks: Ranks,
  { onBad, usable }: Pick<TrainingDataOptions, 'onBad' | 'usable'>,
): Promise<OpenSampleSource> {
  const { samplesPerEpoch, threads, columns } = recipe.data;
  if (folder === null) {
    const generator = task.generator!;
    const total = samplesPerEpoch!;
    return {
      samplesPerEpoch: total,
      sample: async (epoch, place) => generator.sample(recipe.seed, 'train', epoch * total + place),
      processImage,
      close: async () => {},
    };
  }
  return openTrainingData(folder, task, inputs, {
    seed: recipe.seed,
    columnNames: columns,
    samplesPerEpoch: samplesPerEpoch ?? undefined,
    epochs: recipe.numEpochs,
    threads,
    ahead: Math.ceil((2 * recipe.globalBatch) / ranks.size),
    isOwn: (place) => {
      const chunk = Math.floor((place % recipe.globalBatch) / recipe.microBatch);
      return isOwnChunk(chunk, { rank: ranks.rank, processes: ranks.size });
    },
    onBad,
    usable,
    ranks,
  });
}

/** Says which rows are left out, each once; undefined when they are errors. */
export function badRowNotes({ data }: Recipe, reporter: TrainReporter): ((bad: BadRows) => void) | undefined {
  if (data.onBadRow === 'error') return undefined;
  const said = new Set<string>();
  return ({ place, message, rows }) => {
    if (said.has(place)) return;
    said.add(place);
    reporter.note(`${place}: left out ${rows} ${rows === 1 ? 'row' : 'rows'}: ${message}`);
  };
}

/** The task's texts for the pretrain phases. @throws UserError when the recipe asks for others */
export function pretrainingTexts(recipe: Recipe, task: Task): SampleGenerator['pretraining'] {
  const known = task.generator?.pretraining ?? {};
  for (const [i, phase] of recipe.pretrain.entries()) {
    for (const [j, { task: name }] of phase.mix.entries()) {
      if (!Object.hasOwn(known, name)) {
        const names = Object.keys(known).join(', ') || 'none';
        throw new UserError(
          `pretrain.${i}.mix.${j}.task: task ${task.name} has no pretraining text "${name}"; it has ${names}`,
        );
      }
    }
  }
  return known;
}
