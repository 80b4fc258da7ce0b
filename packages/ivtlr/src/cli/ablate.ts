/** `ivtlr ablate`: does the latent step do anything? One table of a model whole and with parts of its latent steps changed. */
import type { Command } from 'commander';
import { askedAs } from './asking-flags.ts';
import { addEvaluationFlags, type EvaluationFlags } from './evaluation-flags.ts';
import { wholeNumberWithin } from './number-flags.ts';
import { Progress } from './progress.ts';
import { renderTable } from './table.ts';

interface AblateFlags extends EvaluationFlags {
  maxLatents: number;
  json?: boolean;
}

export function registerAblate(program: Command): void {
  const command = program
    .command('ablate')
    .description('does the latent step do anything? the model whole and with parts taken away, on the same samples');
  addEvaluationFlags(command)
    .option('--max-latents <n>', 'try every number of latent steps from 0 to this', wholeNumberWithin(0, 64), 5)
    .option('--json', 'print the results as JSON')
    .action(runAblations);
}

async function runAblations(flags: AblateFlags): Promise<void> {
  const { ablate, ablationTable } = await import('../eval/ablate.ts');
  const { toReport } = await import('../eval/report.ts');
  const { openEvaluation } = await import('./evaluation.ts');
  const { opened, task, split, samples, total, skipped, batch, imageThreads, close } = await openEvaluation(
    flags,
    flags.maxLatents,
  );
  const { maxNewTokens, maxLatents, seed, model } = flags;
  let current: { title: string; progress: Progress } | null = null;
  const rows = await ablate(opened, task, samples, {
    ...{ batch, imageThreads, maxNewTokens, maxLatents, seed },
    onRun: (title, done) => {
      if (current?.title !== title) {
        current?.progress.finish();
        current = {
          title,
          progress: new Progress({ label: title, unit: 'samples', ...(total !== null && { total }) }),
        };
      }
      current.progress.update(done);
    },
  });
  (current as { progress: Progress } | null)?.progress.finish();
  await close();
  skipped.report();
  if (flags.json) {
    const results = rows.map((row) => ({ ...row, result: row.result && toReport(row.result) }));
    const { latents: trainedLatents, ...asked } = askedAs(opened);
    const head = { model, task: task.name, seed, split, trainedLatents, ...asked };
    process.stdout.write(`${JSON.stringify({ ...head, skipped: skipped.rows, results }, null, 2)}\n`);
    return;
  }
  const { columns, rows: cells } = ablationTable(rows);
  process.stdout.write(`${renderTable(columns, cells)}\n`);
  for (const { title, problem } of rows) if (problem) process.stdout.write(`${title}: ${problem}\n`);
}
