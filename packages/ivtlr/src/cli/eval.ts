/** `ivtlr eval`: accuracy, autoregressive steps and time of a model on a task, whole or with parts of its latent steps taken away. */
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { UserError } from '../errors.ts';
import { MODES, planRuns } from '../eval/modes.ts';
import type { AnsweredSample } from '../eval/runner.ts';
import { writeFileAtomic } from '../files.ts';
import { ABLATIONS } from '../latent/options.ts';
import { wholeNumber } from './data-flags.ts';
import type { Evaluation } from './evaluation.ts';
import { addEvaluationFlags, type EvaluationFlags } from './evaluation-flags.ts';
import { Progress } from './progress.ts';
import { renderTable } from './table.ts';

interface EvalOptions extends EvaluationFlags {
  mode: string;
  ablation: string[];
  latents?: number;
  predictions?: string;
  predictionsOfficial?: string;
  resume?: boolean;
  json?: boolean;
}

export function registerEval(program: Command): void {
  const command = program
    .command('eval')
    .description('measure a model on a task: accuracy, autoregressive steps, time');
  addEvaluationFlags(command)
    .addOption(
      new Option('--mode <name>', 'how it answers; cot and no-cot take no latent steps, coconut none with patches')
        .choices(Object.keys(MODES))
        .default('ivt-lr'),
    )
    .option('--latents <n>', 'latent steps (default: as trained)', wholeNumber)
    .addOption(
      new Option(
        '--ablation <names...>',
        'what to take away from the latent steps; several give a table, `all` every one',
      )
        .choices([...Object.keys(ABLATIONS), 'all'])
        .default(['full'], 'full'),
    )
    .option('--predictions <file>', 'write every answer as JSON lines, batch by batch')
    .option('--resume', 'go on from the answers that --predictions has; they are not asked again')
    .option('--predictions-official <file>', "write the answers in the form of the official code's file for the task")
    .option('--json', 'print the results as JSON')
    .action(evaluateModel);
}

async function evaluateModel(options: EvalOptions): Promise<void> {
  if (options.resume && !options.predictions) {
    throw new UserError('--resume goes on from the answers in a file; say which with --predictions');
  }
  const runs = planRuns(options.mode, options.ablation);
  if ((options.predictions || options.predictionsOfficial) && runs.length > 1) {
    throw new UserError('a predictions file holds the answers of one run; give one --ablation with it');
  }
  if (options.latents !== undefined && MODES[options.mode]!.ablation.latents === 0) {
    throw new UserError(`--mode ${options.mode} has no latent steps; leave out --latents`);
  }
  const { evaluate } = await import('../eval/runner.ts');
  const { groupTable, resultTable, toReport } = await import('../eval/report.ts');
  const { PredictionFile } = await import('../eval/predictions.ts');
  const { openEvaluation } = await import('./evaluation.ts');
  const evaluation = await openEvaluation(options);
  const { opened, task, samples, total, skipped, batch, imageThreads } = evaluation;
  const results = [];
  const answers: AnsweredSample[] = [];
  for (const { name, ablation, answerStart } of runs) {
    const file = options.predictions
      ? new PredictionFile(options.predictions, describeRun(options, evaluation, name), options.resume ?? false)
      : null;
    if (file && file.stored > 0) process.stderr.write(`${file.stored} answers are there already\n`);
    const progress = new Progress({ label: name, unit: 'samples', ...(total !== null && { total }) });
    try {
      const result = await evaluate(opened, task, samples(), {
        name,
        batch,
        imageThreads,
        maxNewTokens: options.maxNewTokens,
        seed: options.seed,
        ablation,
        ...(answerStart !== undefined && { answerStart }),
        ...(options.latents !== undefined && { latents: options.latents }),
        ...(file && { restore: (sample, index) => file.restore(sample, index) }),
        onProgress: (done) => {
          file?.flush();
          progress.update(done);
          return true;
        },
        onAnswer: (answer) => {
          file?.add(answer);
          if (options.predictionsOfficial) answers.push(answer);
        },
      });
      results.push(result);
    } finally {
      file?.close();
      progress.finish();
    }
  }
  if (options.predictionsOfficial) {
    answers.sort((a, b) => a.index - b.index); // restored ones come before those they stood behind
    writeFileAtomic(options.predictionsOfficial, task.officialPredictions(answers));
  }
  skipped.report();
  if (options.json) {
    const { model, mode, seed, split } = options;
    const head = { model, task: task.name, mode, seed, split, skipped: skipped.rows };
    process.stdout.write(`${JSON.stringify({ ...head, results: results.map(toReport) }, null, 2)}\n`);
    return;
  }
  for (const table of [resultTable(results), groupTable(results)]) {
    if (table) process.stdout.write(`${renderTable(table.columns, table.rows)}\n`);
  }
}

/** What answers depend on: two runs with the same text may share a predictions file. */
function describeRun(options: EvalOptions, { task, data, batch }: Evaluation, name: string): string {
  const { model, split, seed, maxNewTokens, latents, mode } = options;
  const source = data === null ? `seed ${seed}` : resolve(data);
  const parts = [`model ${resolve(model)}`, `task ${task.name}`, `${split} of ${source}`];
  parts.push(`mode ${mode}`, `ablation ${name}`, `latents ${latents ?? 'as trained'}`, `new tokens ${maxNewTokens}`);
  // Random and swapped patches come from the batch.
  if (!options.ablation.includes('full')) parts.push(`seed ${seed}`, `batch ${batch}`);
  if (options.dtype) parts.push(options.dtype);
  return parts.join(', ');
}
