/** What the runs of a study have measured, over seeds. */

import type { Measured } from './measurement.ts';
import { readMeasured } from './measurement.ts';
import type { StudyPlan, StudyRun } from './plan.ts';
import type { StudyFailure } from './processes.ts';
import { meanOf, seedInterval } from './seed-interval.ts';

/** An accuracy over seeds. */
export interface Estimate {
  mean: number;
  interval95: [number, number];
  /** By seed. */
  values: Record<string, number>;
}

export interface RecipeReport {
  recipe: string;
  /** Of the runs that are done. */
  seeds: number[];
  /** By ablation, by the strict scorer; those that do not apply to the model are absent. */
  accuracy: Record<string, Estimate>;
  /** Means over seeds of the whole model; null before a run is done. */
  autoregressiveSteps: number | null;
  secondsPerSample: number | null;
  training: { steps: number; seconds: number } | null;
}

/** The contents of study.json. */
export interface StudyReport {
  /** How it is made. */
  command: string;
  seeds: number;
  runs: number;
  finished: number;
  /** What the intervals are. */
  interval: string;
  /** Names of the columns. */
  ablations: string[];
  /** Most samples that a run was measured on, and their splits. */
  samples: number;
  splits: string[];
  testSeed: number;
  /** What a reader must know besides, in sentences. */
  warnings: string[];
  recipes: RecipeReport[];
  failed: { recipe: string; seed: number; reason: string; log: string | null }[];
}

export const INTERVAL =
  "95%: Student's t over the seeds, since each training is one draw; nowhere narrower than Wilson's interval for the samples of one training, all of which answer the same ones";

export function studyReport(plan: StudyPlan, command: string, failures: readonly StudyFailure[]): StudyReport {
  const measured = plan.runs.flatMap((run) => {
    const found = readMeasured(run.folder, run.measurement);
    return found ? [{ run, found }] : [];
  });
  const { ablations, seed } = plan.runs[0]!.measurement;
  const samples = measured.map(({ found }) => found.results[0]!.result!.samples);
  return {
    command,
    seeds: plan.seeds,
    runs: plan.runs.length,
    finished: measured.length,
    interval: INTERVAL,
    ablations: [...ablations],
    samples: Math.max(0, ...samples),
    splits: [...new Set(measured.map(({ found }) => found.split))],
    testSeed: seed,
    warnings: trainedOn(measured),
    recipes: plan.recipes.map((name) =>
      recipeReport(
        name,
        ablations,
        measured.filter(({ run }) => run.name === name),
      ),
    ),
    failed: failures.map(({ run, reason, log }) => ({ recipe: run.name, seed: run.seed, reason, log })),
  };
}

/** Data without another split are measured as they are. */
function trainedOn(measured: readonly { run: StudyRun; found: Measured }[]): string[] {
  const names = new Set(measured.filter(({ found }) => found.split === 'train').map(({ run }) => run.name));
  if (names.size === 0) return [];
  return [
    `The data of ${[...names].join(', ')} have no other split than train, so these models are measured on samples that they were trained on.`,
  ];
}

function recipeReport(
  recipe: string,
  ablations: readonly string[],
  measured: readonly { run: StudyRun; found: Measured }[],
): RecipeReport {
  const accuracy: RecipeReport['accuracy'] = {};
  for (const key of ablations) {
    const rows = measured.flatMap(({ run, found }) => {
      const result = found.results.find((row) => row.key === key)?.result;
      return result ? [{ seed: run.seed, result }] : [];
    });
    if (rows.length === 0) continue;
    const values = rows.map(({ result }) => result.accuracyStrict);
    accuracy[key] = {
      mean: meanOf(values),
      interval95: seedInterval(values, rows[0]!.result.samples),
      values: Object.fromEntries(rows.map(({ seed, result }) => [seed, result.accuracyStrict])),
    };
  }
  const whole = measured.map(({ found }) => found.results[0]!.result!);
  const mean = (values: number[]) => (values.length === 0 ? null : meanOf(values));
  return {
    recipe,
    seeds: measured.map(({ run }) => run.seed),
    accuracy,
    autoregressiveSteps: mean(whole.map((result) => result.autoregressiveSteps)),
    secondsPerSample: mean(whole.map((result) => result.secondsPerSample)),
    training:
      measured.length === 0
        ? null
        : {
            steps: measured[0]!.found.training.steps,
            seconds: meanOf(measured.map(({ found }) => found.training.seconds)),
          },
  };
}
