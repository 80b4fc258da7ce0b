/** `ivtlr eval`: accuracy, autoregressive steps and time of a model on a task, whole or with parts of its latent steps taken away. */
import { statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { UserError } from '../errors.ts';
import { refuseExisting, type WhenPresent } from '../eval/appended-lines.ts';
import { MODES, planRuns } from '../eval/modes.ts';
import type { RunKey } from '../eval/run-key.ts';
import type { AnsweredSample } from '../eval/runner.ts';
import { makeFolder, writeFileAtomic } from '../files.ts';
import { ABLATIONS } from '../latent/options.ts';
import { askedAs } from './asking-flags.ts';
import type { Evaluation } from './evaluation.ts';
import { addEvaluationFlags, type EvaluationFlags } from './evaluation-flags.ts';
import { latentStepCount } from './number-flags.ts';
import { Progress } from './progress.ts';
import { endOnSignal } from './stored-answers.ts';
import { renderTable } from './table.ts';
import { version } from './version.ts';

interface EvalOptions extends EvaluationFlags {
  mode: string;
  ablation: string[];
  latents?: number;
  predictions?: string;
  predictionsOfficial?: string;
  resume?: boolean;
  overwrite?: boolean;
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
    .option('--latents <n>', 'latent steps (default: as trained)', latentStepCount)
    .addOption(
      new Option(
        '--ablation <names...>',
        'what to take away from the latent steps; several give a table, `all` every one',
      )
        .choices([...Object.keys(ABLATIONS), 'all'])
        .default(['full'], 'full'),
    )
    .option('--predictions <file>', 'write every answer as JSON lines, as soon as it is there')
    .option('--resume', 'go on from the answers that --predictions has; they are not asked again')
    .option('--predictions-official <file>', "write the answers in the form of the official code's file for the task")
    .addOption(
      new Option(
        '--overwrite',
        'replace files of answers that are there already; without it they are refused',
      ).conflicts('resume'),
    )
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
  if (options.latents !== undefined && MODES[options.mode]!.ablation.latentSteps === 0) {
    throw new UserError(`--mode ${options.mode} has no latent steps; leave out --latents`);
  }
  requireFreeOutputs(options);
  const { evaluate } = await import('../eval/runner.ts');
  const { groupTable, resultTable, toReport } = await import('../eval/report.ts');
  const { PredictionFile } = await import('../eval/predictions.ts');
  const { openEvaluation } = await import('./evaluation.ts');
  const evaluation = await openEvaluation(options, options.latents, runs[0]!.answerStart);
  const { opened, task, split, samples, total, skipped, batch, imageThreads, close } = evaluation;
  const results = [];
  const answers: AnsweredSample[] = [];
  for (const { name, ablation, answerStart } of runs) {
    const file = options.predictions
      ? new PredictionFile(options.predictions, await describeRun(options, evaluation, name), whenPresent(options))
      : null;
    if (file && file.stored > 0) process.stderr.write(`${file.stored} answers are there already\n`);
    const progress = new Progress({ label: name, unit: 'samples', ...(total !== null && { total }) });
    let answered = 0;
    const stop = endOnSignal(() => (options.predictions ? { answers: answered, file: options.predictions } : null));
    try {
      const result = await evaluate(opened, task, samples(), {
        name,
        batch,
        imageThreads,
        maxNewTokens: options.maxNewTokens,
        seed: options.seed,
        ablation,
        ...(answerStart !== undefined && { answerStart }),
        ...(options.latents !== undefined && { latentSteps: options.latents }),
        ...(file && { restore: (sample, index) => file.restore(sample, index) }),
        onProgress: (done) => {
          file?.flush();
          answered = done;
          progress.update(done);
          return true;
        },
        onAnswer: (answer) => {
          file?.add(answer);
          if (options.predictionsOfficial) answers.push(answer);
        },
      });
      results.push(result);
      file?.sort();
      progress.finish();
    } catch (error) {
      progress.clear();
      throw error;
    } finally {
      stop[Symbol.dispose]();
      file?.close();
    }
  }
  await close();
  if (options.predictionsOfficial) {
    answers.sort((a, b) => a.index - b.index); // restored answers arrive ahead of new answers to earlier samples
    writeFileAtomic(options.predictionsOfficial, task.officialPredictions(answers));
  }
  skipped.report();
  if (options.json) {
    const { model, mode, seed } = options;
    const { latents, ...asked } = askedAs(opened, MODES[mode]!.ablation.latentSteps ?? options.latents);
    const head = { model, task: task.name, mode, seed, split, latents, ...asked, skipped: skipped.rows };
    process.stdout.write(`${JSON.stringify({ ...head, results: results.map(toReport) }, null, 2)}\n`);
    return;
  }
  for (const table of [resultTable(results), groupTable(results)]) {
    if (table) process.stdout.write(`${renderTable(table.columns, table.rows)}\n`);
  }
}

function whenPresent({ resume, overwrite }: EvalOptions): WhenPresent {
  return resume ? 'resume' : overwrite ? 'overwrite' : 'refuse';
}

/** Before the model is loaded, which may take a minute. */
function requireFreeOutputs(options: EvalOptions): void {
  const { predictions, predictionsOfficial } = options;
  for (const file of [predictions, predictionsOfficial]) if (file !== undefined) makeFolder(dirname(file));
  if (predictions !== undefined && predictionsOfficial !== undefined && sameFile(predictions, predictionsOfficial)) {
    throw new UserError(
      `--predictions and --predictions-official are both ${predictions}; give each a file of its own`,
    );
  }
  const when = whenPresent(options);
  // The official file is written anew from all answers, those of the resumed run included.
  const files = when === 'refuse' ? [predictions, predictionsOfficial] : when === 'resume' ? [predictionsOfficial] : [];
  for (const file of files) if (file !== undefined) refuseExisting(file);
}

function sameFile(one: string, other: string): boolean {
  const identity = (path: string) => {
    const found = statSync(path, { throwIfNoEntry: false });
    return found ? `${found.dev}:${found.ino}` : resolve(path);
  };
  return identity(one) === identity(other);
}

/** Flags that change which samples are answered, how fast, and what is printed, but no answer; and those whose meaning `describeRun` adds itself. */
const WITHOUT_INFLUENCE = new Set(
  'model device data task split ablation limit rows batch processes threads onBadRow predictions predictionsOfficial resume overwrite json'.split(
    ' ',
  ),
);

/** What answers depend on: runs with the same parts may share a predictions file. */
async function describeRun(options: EvalOptions, evaluation: Evaluation, ablation: string): Promise<RunKey> {
  const { opened, device, folder, task, split, data, batch } = evaluation;
  const { fingerprint, modelFingerprint } = await import('../eval/run-key.ts');
  const { findDataFiles } = await import('../data/find-files.ts');
  const { isTaskFile } = await import('../tasks/task-file.ts');
  const flags = Object.entries(options).filter(([name, value]) => !WITHOUT_INFLUENCE.has(name) && value !== undefined);
  return {
    program: version(),
    model: `${resolve(folder)} ${modelFingerprint([folder, opened.folder])}`,
    device,
    settings: JSON.stringify(opened.settings),
    task:
      options.task !== undefined && isTaskFile(options.task)
        ? `${task.name} ${fingerprint([options.task])}`
        : task.name,
    split,
    data: data === null ? 'fresh' : `${resolve(data)} ${fingerprint(await findDataFiles(data, split))}`,
    ablation,
    // Swapped latent steps come from the other samples of the batch.
    ...(!options.ablation.includes('full') && { batch: String(batch) }),
    ...Object.fromEntries(
      flags.map(([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)]),
    ),
  };
}
