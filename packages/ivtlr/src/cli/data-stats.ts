/** `ivtlr data stats`: what a data set holds, as tables. */
import { type Command, Option } from 'commander';
import type { LengthSummary } from '../data/lengths.ts';
import { UserError } from '../errors.ts';
import { DATASETS } from '../tasks/datasets.ts';
import { SPLITS, type Split } from '../tasks/task.ts';
import { addReadingFlags, type ReadingFlags, SkippedRows } from './data-flags.ts';
import { latentStepCount, rowCount } from './number-flags.ts';
import { Progress } from './progress.ts';
import { type Column, renderTable } from './table.ts';

interface StatsFlags extends ReadingFlags {
  data?: string;
  split?: Split;
  model?: string;
  profile?: 'official' | 'consistent';
  maxSteps: number;
  limit?: number;
  json?: boolean;
}

/** Groups of one kind that a table shows; JSON has all. */
const SHOWN = 20;

export function registerDataStats(data: Command): void {
  const command = data
    .command('stats')
    .description('counts, lengths, steps, answers and topics of a data set')
    .argument('<task>', 'how its rows are read: a task, or a file that holds one')
    .option(
      '--data <folder>',
      'Parquet, JSON lines or JSON file, a folder of them, or owner/name on the hub (default: the data set of the task)',
    )
    .addOption(new Option('--split <name>', 'one split only (default: all files)').choices(SPLITS))
    .option('--model <folder>', 'count tokens as this model does; its weights are not read')
    .addOption(new Option('--profile <name>', 'prompt wording').choices(['official', 'consistent']))
    .option('--max-steps <n>', 'most pieces a rationale is cut into', latentStepCount, 3)
    .option('--limit <n>', 'first samples only', rowCount)
    .option('--json', 'print one JSON object');
  addReadingFlags(command).action((task: string, flags: StatsFlags) => stats(task, flags));
}

async function stats(taskName: string, flags: StatsFlags): Promise<void> {
  const { gatherStats } = await import('../inspect/data-stats.ts');
  const { openWithoutWeights } = await import('../engine/folder-rendering.ts');
  const { dataFolder, modelFolder } = await import('./hub-folders.ts');
  const { loadTask } = await import('../tasks/task-file.ts');
  const { streamSamples } = await import('../tasks/read-samples.ts');
  const task = await loadTask(taskName);
  const skipped = new SkippedRows();
  const onBad = skipped.handler(flags);
  const { split, limit, model, maxSteps } = flags;
  const source = flags.data ?? DATASETS[task.name]?.repo;
  if (source === undefined) throw new UserError(`task ${task.name} has no data set on the hub; give --data`);
  const data = await dataFolder(source);
  const opened =
    model === undefined
      ? null
      : openWithoutWeights(await modelFolder(model), { profile: flags.profile ?? 'consistent' });
  const samples = streamSamples(data, task, {
    ...{ split, onBad, columnNames: flags.column },
    ...(limit !== undefined && { limit }),
  });
  const progress = new Progress({ label: 'reading', unit: 'samples' });
  const result = await gatherStats(samples, task, { opened, maxSteps, onSample: (done) => progress.update(done) });
  progress.finish();
  skipped.report();
  if (flags.json) {
    process.stdout.write(
      `${JSON.stringify({ task: task.name, data, split: split ?? null, skipped: skipped.rows, ...result }, null, 2)}\n`,
    );
    return;
  }
  const percent = (count: number) => ((100 * count) / result.samples).toFixed(1);
  const unit = opened ? 'tokens' : 'characters';
  const lengths = Object.entries(result.lengths).flatMap(([name, summary]) =>
    summary ? [[name, ...numbers(summary)]] : [],
  );
  const head: Column[] = ['min', 'median', '90 %', '99 %', 'max', 'mean'].map((title) => ({ title, align: 'right' }));
  const tables = [renderTable([`${result.samples} samples (${unit})`, ...head], lengths)];
  for (const [name, groups] of Object.entries(result.groups)) {
    const rows = groups.slice(0, SHOWN).map(([value, count]) => [value || '(none)', count, percent(count)]);
    const rest = groups.slice(SHOWN).reduce((sum, [, count]) => sum + count, 0);
    if (rest > 0) rows.push([`${groups.length - SHOWN} others`, rest, percent(rest)]);
    tables.push(renderTable([name, { title: 'samples', align: 'right' }, { title: '%', align: 'right' }], rows));
  }
  process.stdout.write(`${tables.join('\n')}\n`);
}

function numbers({ min, p50, p90, p99, max, mean }: LengthSummary): (number | string)[] {
  return [min, p50, p90, p99, max, mean.toFixed(1)];
}
