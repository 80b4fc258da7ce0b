/** `ivtlr train`: runs a recipe from start or from its last checkpoint. */
import { type Command, Option } from 'commander';
import { loadRecipe } from '../config/load.ts';
import type { Recipe } from '../config/schema.ts';
import { UserError } from '../errors.ts';
import type { StepMetrics } from '../train/metrics.ts';
import { hubProgress } from './hub-progress.ts';
import { formatDuration, Progress } from './progress.ts';

interface TrainOptions {
  set: string[];
  resume?: boolean;
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
    .option('--resume', "go on from the run's last checkpoint, if it has one")
    .action(train);
}

async function train(name: string, options: TrainOptions): Promise<void> {
  const recipe = loadRecipe(name, options.set);
  const { assembleRun } = await import('../runs/assemble-run.ts');
  const { readLatestCheckpoint } = await import('../train/checkpoint.ts');
  const { requireEmptyRun, runTraining } = await import('../train/loop.ts');
  const checkpoint = options.resume ? readLatestCheckpoint(recipe.out) : null;
  if (checkpoint) requireSameRecipe(recipe, checkpoint.recipe as Recipe, checkpoint.folder);
  else requireEmptyRun(recipe.out);
  const stop = listenForSignals();
  let progress: Progress | null = null;
  const report = {
    step: (m: StepMetrics, total: number) => {
      progress ??= new Progress({ label: 'step', total, unit: 'steps', initial: m.step - 1 });
      progress.update(m.step, describe(m));
    },
    note: (text: string) => {
      if (progress) progress.log(text);
      else process.stderr.write(`${text}\n`);
    },
  };
  try {
    using run = await assembleRun(recipe, checkpoint, report, () => stop.signal, hubProgress());
    if (run.resume?.state.step !== run.plan.totalSteps) process.stderr.write(`${await run.describeMemory()}\n`);
    if (checkpoint) process.stderr.write(`going on after step ${checkpoint.state.step} of ${run.plan.totalSteps}\n`);
    const end = await runTraining(run);
    (progress as Progress | null)?.finish(
      `${end.step} of ${run.plan.totalSteps} steps in ${formatDuration(end.seconds)}`,
    );
    if (end.stopped) {
      process.stderr.write(`stopped by ${end.stopped}; checkpoint ${end.checkpoint}\n`);
      process.stderr.write(`go on with: ${resumeCommand(name, options.set)}\n`);
      process.exitCode = end.stopped === 'SIGINT' ? 130 : 0;
      return;
    }
    process.stdout.write(`model: ${recipe.out}/model\nmetrics: ${recipe.out}/metrics.jsonl\n`);
  } finally {
    stop.dispose();
  }
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

/** The first signal asks for a stop after the current step; a second one ends the process as usual. */
function listenForSignals(): { signal: string | null; dispose(): void } {
  const names = ['SIGINT', 'SIGTERM'] as const;
  const state = {
    signal: null as string | null,
    dispose() {
      for (const name of names) process.off(name, handle);
    },
  };
  function handle(name: NodeJS.Signals): void {
    state.signal = name;
    state.dispose();
    process.stderr.write(`\n${name}: finishing this step and writing a checkpoint (again to stop at once)\n`);
  }
  for (const name of names) process.on(name, handle);
  return state;
}

/** Settings that may differ when a run is resumed: they do not change what is computed. */
const freeSettings = ['checkpoint', 'out', 'threads'];

/** @throws UserError naming every setting that differs from the run's own */
function requireSameRecipe(recipe: Recipe, stored: Recipe, folder: string): void {
  // The stored recipe went through JSON, where undefined settings are absent.
  const now = flatten(JSON.parse(JSON.stringify(recipe)));
  const then = flatten(stored);
  const differing = [...new Set([...now.keys(), ...then.keys()])].filter(
    (path) => now.get(path) !== then.get(path) && !freeSettings.includes(path.split('.')[0]!),
  );
  if (differing.length === 0) return;
  const list = differing.map((path) => `${path} (was ${then.get(path) ?? 'absent'}, now ${now.get(path) ?? 'absent'})`);
  throw new UserError(
    `a resumed run must keep its recipe, but ${folder} was made with another ${list.join(', ')}; ` +
      'undo the change, or start anew with --set out=FOLDER',
  );
}

function flatten(value: unknown, path = '', into = new Map<string, string>()): Map<string, string> {
  if (typeof value === 'object' && value !== null && Object.keys(value).length > 0) {
    for (const [key, inner] of Object.entries(value)) flatten(inner, path ? `${path}.${key}` : key, into);
  } else into.set(path, JSON.stringify(value));
  return into;
}

function resumeCommand(name: string, set: readonly string[]): string {
  const quoted = set.map(
    (value) => ` --set ${/^[\w.=/+-]+$/.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`}`,
  );
  return `ivtlr train ${name}${quoted.join('')} --resume`;
}
