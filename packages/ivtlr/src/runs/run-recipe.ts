/** A whole training by its recipe: from its start, or from its last checkpoint. */
import { join } from 'node:path';
import type { Recipe } from '../config/schema.ts';
import { deviceOfRank, resolveDevice } from '../engine/device.ts';
import { clearLeftovers } from '../files.ts';
import type { HubReport } from '../hub/resolve.ts';
import { checkpointRoot, readLatestCheckpoint, requireEmptyRun } from '../train/checkpoint.ts';
import { runTraining, type TrainEnd, type TrainReporter } from '../train/loop.ts';
import { assembleRun } from './assemble-run.ts';
import { inTurn, joinProcesses, launched, requireSameRun, together } from './processes.ts';
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
  using processes = joinProcesses(recipe);
  const { ranks, group } = processes;
  // The first process has the folder; the others only read there until it is theirs to write.
  using _lock = await inTurn(ranks, () => (ranks.rank === 0 ? new RunLock(out) : null));
  await together(ranks, () => requireSameRun(ranks, recipe));
  const checkpoint = await inTurn(ranks, () => {
    if (ranks.rank === 0) for (const folder of [out, checkpointRoot(out), join(out, 'models')]) clearLeftovers(folder);
    const latest = resume ? readLatestCheckpoint(out) : null;
    if (latest) requireSameRecipe(recipe, latest);
    else requireEmptyRun(out);
    return latest;
  });
  const device = await together(ranks, () => deviceOf(recipe, reporter));
  using run = await together(ranks, () =>
    assembleRun(recipe, { device, resume: checkpoint, reporter, hub, stopRequested, ranks, group }),
  );
  const { totalSteps } = run.plan;
  await together(ranks, async () => {
    if (checkpoint) requireSamePlan(checkpoint, totalSteps);
    if (ranks.rank === 0 && checkpoint?.state.step !== totalSteps) reporter.note(await run.describeMemory());
  });
  if (checkpoint) reporter.note(`going on after step ${checkpoint.state.step} of ${totalSteps}`);
  const end = await runTraining(run);
  const model = end.stopped === null ? join(out, 'model') : null;
  return { ...end, totalSteps, model, metrics: join(out, 'metrics.jsonl') };
}

function deviceOf({ device }: Recipe, reporter: TrainReporter): Promise<string> {
  const environment = launched();
  const note = (line: string) => reporter.note(line);
  return environment ? deviceOfRank(device, 'device', environment, note) : resolveDevice(device, 'device', note);
}
