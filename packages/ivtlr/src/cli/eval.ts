/** `ivtlr eval`: accuracy, autoregressive steps and time of a model on a task, whole or with parts of its latent steps taken away. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { UserError } from '../errors.ts';
import type { AnsweredSample } from '../eval/runner.ts';
import { writeFileAtomic } from '../files.ts';
import { ABLATIONS } from '../latent/options.ts';
import { SPLITS, type Split } from '../tasks/task.ts';
import { Progress } from './progress.ts';
import { renderTable } from './table.ts';

interface EvalOptions {
  model: string;
  task?: string;
  rows?: number;
  seed: number;
  data?: string;
  split: Split;
  batch: number;
  maxNewTokens: number;
  latents?: number;
  threads?: number;
  dtype?: 'float32' | 'bfloat16' | 'float16';
  device: string;
  ablation: string[];
  predictions?: string;
  json?: boolean;
}

const generatedRows = 1000;

export function registerEval(program: Command): void {
  program
    .command('eval')
    .description('measure a model on a task: accuracy, autoregressive steps, time')
    .requiredOption('--model <folder>', 'model folder')
    .option('--task <name>', 'task (default: the one the model was trained on)')
    .option('--rows <n>', `samples to answer (default: all of --data, or ${generatedRows} fresh ones)`, count)
    .option('--seed <n>', 'seed of fresh samples and of random patches', whole, 0)
    .option('--data <folder>', 'folder of Parquet files instead of fresh samples')
    .addOption(new Option('--split <name>', 'which samples').choices(SPLITS).default('test'))
    .option('--batch <n>', 'samples answered together', count, 50)
    .option('--max-new-tokens <n>', 'longest answer', count, 512)
    .option('--latents <n>', 'latent steps (default: as trained)', whole)
    .option('--threads <n>', 'CPU threads', count)
    .addOption(new Option('--dtype <name>', 'default: as stored').choices(['float32', 'bfloat16', 'float16']))
    .option('--device <name>', 'cpu or cuda', 'cpu')
    .addOption(
      new Option(
        '--ablation <names...>',
        'what to take away from the latent steps; several give a table, `all` every one',
      )
        .choices([...Object.keys(ABLATIONS), 'all'])
        .default(['full'], 'full'),
    )
    .option('--predictions <file>', 'write every answer as JSON lines')
    .option('--json', 'print the results as JSON')
    .action(evaluateModel);
}

async function evaluateModel(options: EvalOptions): Promise<void> {
  const { setNumThreads } = await import('@ivtlr/torch');
  const { openModelFolder } = await import('../engine/model-folder.ts');
  const { evaluate, generatedSamples, storedSamples } = await import('../eval/runner.ts');
  const { resultTable, toReport } = await import('../eval/report.ts');
  const { findTask } = await import('../tasks/registry.ts');
  if (options.threads !== undefined) setNumThreads(options.threads);
  const { device, dtype } = options;
  const opened = openModelFolder(options.model, { device, ...(dtype && { dtype }) });
  opened.model.module.eval();
  const taskName = options.task ?? opened.settings.task;
  if (!taskName) throw new UserError(`${options.model} does not say which task it was trained on; give --task`);
  const task = findTask(taskName);
  const rows = options.rows ?? (options.data ? Number.POSITIVE_INFINITY : generatedRows);
  const names = options.ablation.includes('all') ? Object.keys(ABLATIONS) : [...new Set(options.ablation)];
  if (options.predictions && names.length > 1) {
    throw new UserError('--predictions writes the answers of one run; give one --ablation with it');
  }
  const results = [];
  const lines: string[] = [];
  for (const name of names) {
    const ablation = ABLATIONS[name]!;
    const samples = options.data
      ? storedSamples(task, options.data, options.split, rows)
      : generatedSamples(task, options.seed, options.split, rows);
    const total = Number.isFinite(rows) ? { total: rows } : {};
    const progress = new Progress({ label: ablation.title, unit: 'samples', ...total });
    results.push(
      await evaluate(opened, task, samples, {
        name: ablation.title,
        batch: options.batch,
        maxNewTokens: options.maxNewTokens,
        seed: options.seed,
        ablation,
        ...(options.latents !== undefined && { latents: options.latents }),
        onBatch: (done) => {
          progress.update(done);
          return true;
        },
        onAnswer: (answer) => {
          if (options.predictions) lines.push(predictionLine(answer));
        },
      }),
    );
    progress.finish();
  }
  if (options.predictions) writeFileAtomic(options.predictions, lines.join(''));
  if (options.json) {
    const { model, seed, split } = options;
    const report = { model, task: task.name, seed, split, results: results.map(toReport) };
    process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    return;
  }
  const { columns, rows: cells } = resultTable(results);
  process.stdout.write(`${renderTable(columns, cells)}\n`);
}

/** One answer in the form of the official code's M3CoT predictions. */
function predictionLine({ sample, answered, score, autoregressiveSteps }: AnsweredSample): string {
  const { id, choices, answer, meta } = sample;
  const messages = [answered.prompt, answered.generated];
  const { domain, topic } = meta;
  return `${JSON.stringify({ id, choices, answer, domain, topic, messages, predicted: score.predicted, steps: autoregressiveSteps })}\n`;
}

function whole(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It should be a whole number, 0 or more.');
  return Number(text);
}

function count(text: string): number {
  const value = whole(text);
  if (value === 0) throw new InvalidArgumentError('It should be at least 1.');
  return value;
}
