/** `ivtlr train`: runs a recipe from start or from its last checkpoint. */
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { loadRecipe } from '../config/load.ts';
import { UserError } from '../errors.ts';
import { launcherPid } from '../launch/worker-environment.ts';
import type { StepMetrics } from '../train/metrics.ts';
import { shellQuoted } from './command-line.ts';
import { hubProgress } from './hub-progress.ts';
import { MAX, wholeNumberWithin } from './number-flags.ts';
import { formatDuration, Progress } from './progress.ts';

interface TrainOptions {
  set: string[];
  deepspeedConfig?: string;
  resume?: boolean;
  processes?: number;
  maxRestarts: number;
  json?: boolean;
}

export function registerTrain(program: Command): void {
  program
    .command('train')
    .description('train a model as a recipe says')
    .argument('<recipe>', 'a YAML file, or the name of a bundled recipe such as dominoes')
    .addOption(
      new Option('--set <path=value>', 'change one setting of the recipe, such as optimizer.lr=1e-4 (repeatable)')
        .default([], 'none')
        .argParser((value: string, before: string[]) => [...before, value]),
    )
    .option('--deepspeed-config <file>', 'take the settings of a DeepSpeed config (ds_config.json) as well')
    .option('--resume', "go on from the run's last checkpoint, if it has one")
    .option(
      '--processes <n>',
      'train on so many processes of this machine, each with its GPU or its share of the threads',
      wholeNumberWithin(1, MAX.processes),
    )
    .option(
      '--max-restarts <n>',
      'when a process dies, start all again from the last checkpoint, at most so often',
      wholeNumberWithin(0, 1000),
      0,
    )
    .option('--json', 'print the result as one JSON object, and plain lines on stderr')
    .action(train);
}

async function train(name: string, options: TrainOptions, command: Command): Promise<void> {
  const { processes = 1 } = options;
  if (processes > 1 || options.maxRestarts > 0) return trainOnProcesses(name, options, processes, command);
  const launcher = launcherPid();
  const inLauncher = launcher !== null;
  if (inLauncher && !(await import('@ivtlr/torch')).dieWithParent(launcher)) return;
  // What the first process tells stands for all; the others have something to tell only where it goes to a log of their own.
  const isFirst = (process.env.RANK ?? '0') === '0' || processesAround() === 1;
  const write = (text: string) => void ((isFirst || inLauncher) && process.stderr.write(`${text}\n`));
  // torchrun starts the workers of a run again with the same command.
  const resume = options.resume || Number(process.env.TORCHELASTIC_RESTART_COUNT ?? 0) > 0;
  const recipe = loadRecipe(name, options.set, write, {
    deepspeedConfig: options.deepspeedConfig,
    processes: processesAround(),
    ...(resume && { globalBatchOf: (await import('../runs/same-recipe.ts')).globalBatchOf }),
  });
  const { runRecipe } = await import('../runs/run-recipe.ts');
  const { exitCodeOf, StopSignals } = await import('../runs/stop-signals.ts');
  const signals = new StopSignals(
    (signal) => write(`\n${signal}: finishing this step and writing a checkpoint (again to stop at once)`),
    { onlyFirst: inLauncher },
  );
  let progress = null as Progress | null;
  const reporter = {
    step: (m: StepMetrics, total: number) => {
      if (!isFirst && !inLauncher) return;
      progress ??= new Progress({
        ...{ label: 'step', total, unit: 'steps', initial: m.step - 1 },
        ...((options.json || !isFirst) && { stream: { write: (text) => process.stderr.write(text) } }),
      });
      progress.update(m.step, describe(m));
    },
    note: (text: string) => {
      if (progress) progress.log(text);
      else write(text);
    },
  };
  const stopRequested = () => signals.received;
  const end = await runRecipe(recipe, { resume, reporter, hub: hubProgress(), stopRequested }).finally(() =>
    signals[Symbol.dispose](),
  );
  progress?.finish(`${end.step} of ${end.totalSteps} steps in ${formatDuration(end.seconds)}`);
  if (end.stopped !== null) {
    write(`stopped by ${end.stopped}; checkpoint ${end.checkpoint}`);
    write(`go on with: ${resumeCommand(name, options)}`);
    process.exitCode = exitCodeOf(end.stopped as NodeJS.Signals);
  }
  if (!isFirst) return;
  if (options.json) {
    const { step: steps, seconds, stopped, checkpoint, model, metrics } = end;
    process.stdout.write(
      `${JSON.stringify({ out: recipe.out, model, steps, seconds, metrics, checkpoint, stopped })}\n`,
    );
  } else if (end.model !== null) process.stdout.write(`model: ${end.model}\nmetrics: ${end.metrics}\n`);
}

/** Starts the same command once a process; see launch/workers.ts. */
async function trainOnProcesses(
  name: string,
  options: TrainOptions,
  processes: number,
  command: Command,
): Promise<void> {
  if (processesAround() > 1) {
    throw new UserError(
      '--processes starts processes itself, but a launcher has started this one already; leave it out',
    );
  }
  // Looked at here first, so that a mistake is told once.
  const quiet = () => {};
  const recipe = loadRecipe(name, options.set, quiet, {
    deepspeedConfig: options.deepspeedConfig,
    processes,
    ...(options.resume && { globalBatchOf: (await import('../runs/same-recipe.ts')).globalBatchOf }),
  });
  const { runWorkers } = await import('../launch/workers.ts');
  const args = ['train', name, ...options.set.flatMap((value) => ['--set', value])];
  if (options.deepspeedConfig !== undefined) args.push('--deepspeed-config', options.deepspeedConfig);
  if (options.resume) args.push('--resume');
  if (options.json) args.push('--json');
  if (command.optsWithGlobals().debug) args.push('--debug');
  process.exitCode = await runWorkers({
    processes,
    command: [process.execPath, ...process.execArgv, process.argv[1]!, ...args],
    again: options.resume ? [] : ['--resume'],
    logs: join(recipe.out, 'logs'),
    maxRestarts: options.maxRestarts,
    note: (line) => void process.stderr.write(`${line}\n`),
  });
}

function describe(m: StepMetrics): string {
  const parts = [
    m.phase,
    `loss ${m.loss.toFixed(4)}`,
    `tokens ${(100 * m.tokenAccuracy).toFixed(1)}%`,
    `lr ${m.lr.toExponential(1)}`,
    `grad ${m.gradNorm.toFixed(2)}`,
    `${m.samplesPerSecond.toFixed(0)} samples/s`,
  ];
  return parts.join('  ');
}

/** As a launcher's variable has it; one that is no number is refused where the processes join. */
function processesAround(): number {
  const size = process.env.WORLD_SIZE ?? '';
  return /^\d{1,6}$/.test(size) && Number(size) > 1 ? Number(size) : 1;
}

function resumeCommand(name: string, { set, deepspeedConfig }: TrainOptions): string {
  const flags = set.map((value) => ` --set ${shellQuoted(value)}`);
  if (deepspeedConfig !== undefined) flags.push(` --deepspeed-config ${shellQuoted(deepspeedConfig)}`);
  if (launcherPid() !== null && processesAround() > 1) flags.push(` --processes ${processesAround()}`);
  return `ivtlr train ${name}${flags.join('')} --resume`;
}
