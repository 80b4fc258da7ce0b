/** Flags of the commands that put a task's samples to a model. Loads nothing native, so that --help is instant. */
import { type Command, Option } from 'commander';
import { SPLITS, type Split } from '../tasks/task.ts';
import { type AskingFlags, addAskingFlags } from './asking-flags.ts';
import { addReadingFlags, type ReadingFlags } from './data-flags.ts';
import { MAX, rowCount, seedNumber, wholeNumberWithin } from './number-flags.ts';

export interface EvaluationFlags extends ReadingFlags, AskingFlags {
  model: string;
  task?: string;
  limit?: number;
  /** The former name of `limit`. */
  rows?: number;
  seed: number;
  data?: string;
  /** Default: test, or the only split the data has. */
  split?: Split;
  batch?: number;
  processes?: number;
}

/** Samples of a task that makes its own, when nothing says how many. */
export const GENERATED_SAMPLES = 1000;

/** Samples answered together: of a generator, whose models are small, and of files, whose models may need nearly a gigabyte of cache for each (Chameleon-7B with 512 new tokens). */
export const DEFAULT_BATCH = { generated: 50, stored: 8 };

export function addEvaluationFlags(command: Command): Command {
  command
    .requiredOption('--model <folder>', 'model folder, or owner/name on the hub')
    .option(
      '--task <name>',
      `task, or a file such as ./my-task.mjs that holds one (default: the one the model was trained on)`,
    )
    .option('--limit <n>', `samples to answer (default: all of --data, or ${GENERATED_SAMPLES} fresh ones)`, rowCount)
    .addOption(new Option('--rows <n>', 'the same as --limit').argParser(rowCount).conflicts('limit').hideHelp())
    .option('--seed <n>', 'seed of fresh samples and of random patches', seedNumber, 0)
    .option(
      '--data <folder>',
      'Parquet, JSON lines or JSON file, a folder of them, or owner/name on the hub (default: fresh samples, or the data set of the task)',
    )
    .addOption(
      new Option('--split <name>', 'which samples (default: test, or the only split there is)').choices(SPLITS),
    )
    .option(
      '--batch <n>',
      `samples answered together (default: ${DEFAULT_BATCH.generated} fresh ones, ${DEFAULT_BATCH.stored} of --data)`,
      wholeNumberWithin(1, MAX.batch),
    )
    .option(
      '--processes <n>',
      'answer in so many processes of this machine, each with the whole model and its GPU or its share of the threads; --batch is that of each',
      wholeNumberWithin(1, MAX.processes),
    );
  return addReadingFlags(addAskingFlags(command));
}
