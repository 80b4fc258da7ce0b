/** A whole training by its recipe: from its start, or from its last checkpoint. */
import { join } from 'node:path';
import type { Recipe } from '../config/schema.ts';
import { resolveDevice } from '../engine/device.ts';
import { clearLeftovers } from '../files.ts';
import type { HubReport } from '../hub/resolve.ts';
import { checkpointRoot, readLatestCheckpoint, requireEmptyRun } from '../train/checkpoint.ts';
import { runTraining, type TrainEnd, type TrainReporter } from '../train/loop.ts';
import { assembleRun } from './assemble-run.ts';
import { RunLock } from './run-lock.ts';
import { requireSamePlan, requireSameRecipe } from './same-recipe.ts';

export interface RunRecipeOptions {
  /** Go on from the last checkpoint in the run's folder, if it has one; default false. */
  resume?: boolean;
  reporter?: TrainReporter;
  /** Hears of what is fetched from the hub. */
  hub?: HubReport;
  /** Read between steps: the reason to stop, such as 'SIGINT', or null. */
  stopRequested?(): string | null;
}

const SILENT: TrainReporter = { step: () => {}, note: () => {} };

export interface RunResult extends TrainEnd {
  totalSteps: number;
  /** The finished model's folder; null when the run was stopped before its end. */
  model: string | null;
  /** metrics.jsonl */
  metrics: string;
}

/** @throws UserError for anything the recipe asks for that cannot be had, and for a folder that holds another run */
export async function runRecipe(
  recipe: Recipe,
  { resume = false, reporter = SILENT, hub = {}, stopRequested = () => null }: RunRecipeOptions = {},
): Promise<RunResult> {
  const { out } = recipe;
  using _lock = new RunLock(out);
  for (const folder of [out, checkpointRoot(out), join(out, 'models')]) clearLeftovers(folder);
  const checkpoint = resume ? readLatestCheckpoint(out) : null;
  if (checkpoint) requireSameRecipe(recipe, checkpoint);
  else requireEmptyRun(out);
  const device = await resolveDevice(recipe.device, 'device', (line) => reporter.note(line));
  using run = await assembleRun(recipe, { device, resume: checkpoint, reporter, hub, stopRequested });
  const { totalSteps } = run.plan;
  if (checkpoint) requireSamePlan(checkpoint, totalSteps);
  if (checkpoint?.state.step !== totalSteps) reporter.note(await run.describeMemory());
  if (checkpoint) reporter.note(`going on after step ${checkpoint.state.step} of ${totalSteps}`);
  const end = await runTraining(run);
  const model = end.stopped === null ? join(out, 'model') : null;
  return { ...end, totalSteps, model, metrics: join(out, 'metrics.jsonl') };
}
