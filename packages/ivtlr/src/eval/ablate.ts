/** Does the latent step do anything? One model answers the same samples whole and with parts of its latent steps changed. */
import type { Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { ABLATIONS, type Ablation } from '../latent/options.ts';
import type { Task } from '../tasks/task.ts';
import { pairedBootstrap } from './bootstrap.ts';
import { type EvalResult, formatInterval, toReport } from './report.ts';
import { type AskedModel, type EvaluateOptions, evaluate } from './runner.ts';

export interface AblationOptions extends Pick<EvaluateOptions, 'batch' | 'maxNewTokens' | 'imageThreads'> {
  /** Of random patches and of the intervals. */
  seed: number;
  /** Numbers of latent steps to try: 0 to this many. */
  maxLatents: number;
  /** What is run, `full` first; default: planAblations. */
  plan?: readonly [key: string, ablation: Ablation][];
  onRun?(name: string, done: number): void;
}

/** One row of the table. */
export interface AblationRow {
  /** Name of the change, such as `no-latent-text` or `latents-2`. */
  key: string;
  title: string;
  latents: number;
  /** Null when the model cannot take this change; `problem` then says why. */
  result: EvalResult | null;
  problem?: string;
  /** Against the full model on the same samples; null for the full model itself. */
  versus: Comparison | null;
}

export interface Comparison {
  /** Accuracy of this run minus that of the full model, by our scorer and by the official one. */
  difference: number;
  differenceOfficial: number;
  /** Paired bootstrap 95% intervals. */
  interval95: [number, number];
  interval95Official: [number, number];
  /** Samples the change made wrong, and right; the rest are alike. */
  lost: number;
  gained: number;
  /** Share of samples whose generated text differs at all. */
  textChanged: number;
}

interface Verdict {
  strict: boolean;
  official: boolean;
  text: string;
}

/** Changes in the order of the table, `full` first; a number of steps that an earlier row has is not run twice. */
export function planAblations(trained: number, maxLatents: number): [key: string, ablation: Ablation][] {
  const plan = Object.entries(ABLATIONS);
  for (let latentSteps = 1; latentSteps <= maxLatents; latentSteps++) {
    if (latentSteps !== trained)
      plan.push([`latents-${latentSteps}`, { title: 'latent steps', latentSteps, options: {} }]);
  }
  return plan;
}

/**
 * @param samples gives the same samples each time it is called
 * @throws UserError when the model takes no latent steps, or the full run fails
 */
export async function ablate(
  opened: AskedModel,
  task: Task,
  samples: () => AsyncIterable<Sample> | Iterable<Sample>,
  options: AblationOptions,
): Promise<AblationRow[]> {
  const { seed, batch, maxNewTokens, imageThreads = 0, maxLatents, onRun } = options;
  const trained = opened.settings.latents;
  const plan = options.plan ?? planAblations(trained, maxLatents);
  if (trained === 0 && plan.length > 1)
    throw new UserError('the model was trained without latent steps, so there is nothing to take away');
  if (batch < 2 && plan.length > 1)
    throw new UserError('patches are shuffled within a batch: use a batch of at least 2');
  let full: Map<number, Verdict> | null = null;
  const rows: AblationRow[] = [];
  for (const [key, ablation] of plan) {
    const latents = ablation.latentSteps ?? trained;
    const title = `${ablation.title}, T = ${latents}`;
    const verdicts = new Map<number, Verdict>();
    try {
      const result = await evaluate(opened, task, samples(), {
        name: title,
        ...{ batch, maxNewTokens, imageThreads, seed, ablation },
        onAnswer: ({ index, score: { strict, official }, answered }) =>
          verdicts.set(index, { strict, official, text: answered.generated }),
        onProgress: (done) => {
          onRun?.(title, done);
          return true;
        },
      });
      rows.push({ key, title, latents, result, versus: full && compare(full, verdicts, seed) });
      full ??= verdicts;
    } catch (error) {
      // For example a change that leaves a step nothing to insert: the other runs go on.
      if (!full || !(error instanceof UserError)) throw error;
      rows.push({ key, title, latents, result: null, problem: error.message, versus: null });
    }
  }
  return rows;
}

function compare(full: ReadonlyMap<number, Verdict>, other: ReadonlyMap<number, Verdict>, seed: number): Comparison {
  // By place, since answers end in another order in each run.
  const places = [...full.keys()].sort((a, b) => a - b);
  const pairs = places.map((index) => [full.get(index)!, other.get(index)!] as const);
  const differ = (scorer: 'strict' | 'official') => pairs.map(([a, b]) => Number(b[scorer]) - Number(a[scorer]));
  const strict = differ('strict');
  const official = differ('official');
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return {
    difference: mean(strict),
    differenceOfficial: mean(official),
    interval95: pairedBootstrap(strict, { seed }),
    interval95Official: pairedBootstrap(official, { seed }),
    lost: strict.filter((value) => value < 0).length,
    gained: strict.filter((value) => value > 0).length,
    textChanged: mean(pairs.map(([a, b]) => Number(a.text !== b.text))),
  };
}

export function ablationTable(rows: readonly AblationRow[]): { columns: string[]; rows: string[][] } {
  const columns = ['run', 'accuracy', '95% interval', 'official', 'against full', '95% interval', 'lost', 'gained'];
  columns.push('text changed', 'samples');
  const cells = rows.map(({ title, result, versus }) => {
    if (!result) return [title, 'not possible'];
    const report = toReport(result);
    const head = [title, report.accuracyStrict.toFixed(3), formatInterval(report.interval95)];
    head.push(report.accuracyOfficial.toFixed(3));
    const against = versus
      ? [
          signed(versus.difference),
          versus.interval95.map(signed).join(' to '),
          String(versus.lost),
          String(versus.gained),
          versus.textChanged.toFixed(3),
        ]
      : ['', '', '', '', ''];
    return [...head, ...against, String(result.samples)];
  });
  return { columns, rows: cells };
}

function signed(value: number): string {
  const text = value.toFixed(3);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text.replace(/^-(0\.0+)$/, '$1');
}
