/** `ivtlr study`: several recipes with several seeds, trained, measured and compared in one table and one figure. */
import { availableParallelism } from 'node:os';
import { type Command, Option } from 'commander';
import { shellQuoted } from './command-line.ts';
import { MAX, newTokenCount, rowCount, seedNumber, wholeNumberWithin } from './number-flags.ts';
import { formatDuration, Progress } from './progress.ts';
import { renderTable } from './table.ts';

interface StudyFlags {
  seeds: number;
  out: string;
  set: string[];
  processes?: number;
  limit?: number;
  testSeed: number;
  maxNewTokens?: number;
  batch?: number;
  json?: boolean;
}

/** Seconds between two lines of a log: a study takes hours. */
const LOG_EVERY = 60;

export function registerStudy(program: Command): void {
  program
    .command('study')
    .description(
      'train every recipe with every seed, take parts of the latent steps away, and compare all in one table and one figure; the same command goes on after an interruption',
    )
    .argument('<recipes...>', 'YAML files, or names of bundled recipes such as dominoes')
    .requiredOption('--out <folder>', 'where the runs, study.md, study.json and study.png go')
    .option('--seeds <n>', 'trainings of each recipe, with seeds 1 to this', wholeNumberWithin(1, 1000), 5)
    .option(
      '--processes <n>',
      'runs at a time, each in a process with one thread (default: as many as cores)',
      wholeNumberWithin(1, MAX.processes),
    )
    .addOption(
      new Option('--set <path=value>', 'change one setting of all recipes (repeatable)')
        .default([], 'none')
        .argParser((value: string, before: string[]) => [...before, value]),
    )
    .option(
      '--limit <n>',
      "samples each run is measured on (default: all of the recipe's data folder, or 1000 fresh ones)",
      rowCount,
    )
    .option('--test-seed <n>', 'seed of fresh samples and of random patches in the measurement', seedNumber, 0)
    .option(
      '--max-new-tokens <n>',
      "longest answer in the measurement (default: that of the recipe's validation)",
      newTokenCount,
    )
    .option(
      '--batch <n>',
      'samples answered together in the measurement (default: 50 fresh ones, 8 of files)',
      wholeNumberWithin(2, MAX.batch),
    )
    .option('--json', 'print what study.json holds')
    .action(runStudy);
}

async function runStudy(names: string[], flags: StudyFlags): Promise<void> {
  const { out, seeds, set, testSeed, processes = availableParallelism(), json } = flags;
  const write = (text: string) => void process.stderr.write(`${text}\n`);
  const { planStudy } = await import('../study/plan.ts');
  const { isDone, runAll, titleOf } = await import('../study/processes.ts');
  const { studyReport } = await import('../study/report.ts');
  const { studyTable, writeReport } = await import('../study/report-files.ts');
  const { RunLock } = await import('../runs/run-lock.ts');
  const { exitCodeOf, StopSignals } = await import('../runs/stop-signals.ts');
  const plan = planStudy(names, {
    ...{ out, seeds, set, testSeed, note: write },
    limit: flags.limit ?? null,
    maxNewTokens: flags.maxNewTokens ?? null,
    batch: flags.batch ?? null,
  });
  const lock = new RunLock(out, '--out FOLDER');
  const command = ['ivtlr', ...process.argv.slice(2)].map(shellQuoted).join(' ');
  const total = plan.runs.length;
  const before = plan.runs.filter(isDone).length;
  write(
    `${total} runs (recipes: ${plan.recipes.length}, ${seeds === 1 ? 'seed 1' : `seeds 1 to ${seeds}`})${before > 0 ? `, ${before} of them done already` : ''}; ${processes} at a time`,
  );
  const stop = new AbortController();
  const signals = new StopSignals((signal) => {
    progress.log(`${signal}: the runs write their checkpoints and end (again to stop at once)`);
    stop.abort();
  });
  const progress = new Progress({
    ...{ label: 'study', total, unit: 'runs', initial: before, logEvery: LOG_EVERY },
    ...(json && { stream: { write: (text: string) => process.stderr.write(text) } }),
  });
  const started = performance.now();
  const failures = await runAll(plan, {
    processes,
    stop: stop.signal,
    note: (line) => progress.log(line),
    progress: (done, doing) => progress.update(Math.round(100 * done) / 100, doing),
    ended: (run, failed) => {
      const report = studyReport(plan, command, failed);
      writeReport(out, report);
      if (!isDone(run)) return;
      const accuracy = report.recipes.find(({ recipe }) => recipe === run.name)!.accuracy.full!.values[run.seed]!;
      progress.log(`${titleOf(run)}: accuracy ${accuracy.toFixed(3)} (${report.finished} of ${total} runs are done)`);
    },
  }).finally(() => {
    signals[Symbol.dispose]();
    lock[Symbol.dispose]();
  });
  const report = studyReport(plan, command, failures);
  const files = writeReport(out, report);
  const seconds = (performance.now() - started) / 1000;
  progress.finish(`${report.finished} of ${total} runs are done, in ${formatDuration(seconds)}`);
  for (const warning of report.warnings) write(warning);
  if (json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else {
    const { columns, rows } = studyTable(report);
    process.stdout.write(`${renderTable(columns, rows)}\n${files.join('\n')}\n`);
  }
  if (signals.received !== null) {
    write(`stopped by ${signals.received}; go on with: ${command}`);
    process.exitCode = exitCodeOf(signals.received);
  } else if (failures.length > 0) {
    write(`${failures.length} of ${total} runs failed; the same command tries them again:`);
    for (const { run, reason, log } of failures)
      write(`  ${titleOf(run)}: ${reason}${log === null ? '' : ` (log: ${log})`}`);
    process.exitCode = 1;
  }
}
