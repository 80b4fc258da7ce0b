/** The training loop: walks through the plan, writes metrics and checkpoints, validates, and stops cleanly when asked. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { AdamW } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { disposeBatches, type MicroBatch } from './batches.ts';
import {
  type Checkpoint,
  captureState,
  checkpointRoot,
  restoreCheckpoint,
  writeCheckpoint,
  writeFolderAtomic,
} from './checkpoint.ts';
import { MetricsLog, type StepMetrics } from './metrics.ts';
import type { CheckpointOptions, OptimizerOptions, PretrainPhaseOptions, ScheduleOptions } from './options.ts';
import { learningRate, type Phase, type Plan, type Position, positionOf } from './schedule.ts';
import { createOptimizer, type Trainee, trainStep } from './step.ts';

/** Where a run tells how it is getting on; the terminal's part is the caller's. */
export interface TrainReporter {
  step(metrics: StepMetrics, totalSteps: number): void;
  /** A line worth keeping, such as a held-out accuracy. */
  note(text: string): void;
}

/** Everything one run needs. */
export interface TrainRun {
  plan: Plan;
  trainee: Trainee;
  /** The micro-batches of one step; must depend on the position alone. */
  batches(position: Position): Promise<MicroBatch[]>;
  /** Held-out accuracy at an epoch's end, or null when this epoch is not validated. */
  validate(position: Position): Promise<{ accuracy: number; samples: number; autoregressiveSteps: number } | null>;
  optimizer: OptimizerOptions;
  schedule: ScheduleOptions;
  pretrain: readonly PretrainPhaseOptions[];
  resetOptimizerAtStage: boolean;
  checkpoint: CheckpointOptions;
  device: string;
  /** Folder of the run. */
  out: string;
  /** Stored beside each checkpoint. */
  recipe: unknown;
  resume: Checkpoint | null;
  reporter: TrainReporter;
  /** Read between steps: the reason to stop, such as 'SIGINT', or null. */
  stopRequested(): string | null;
}

export interface TrainEnd {
  /** Finished steps. */
  step: number;
  /** Why the run stopped early, or null when it is complete. */
  stopped: string | null;
  /** The last checkpoint's folder. */
  checkpoint: string;
  seconds: number;
}

/** Whether the optimiser starts fresh with this phase. Pretrain phases and the first stage always do. */
function startsFresh(run: TrainRun, phase: Phase): boolean {
  const firstStage = run.plan.phases.find((candidate) => candidate.kind === 'stage');
  return phase.kind === 'pretrain' || phase === firstStage || run.resetOptimizerAtStage;
}

/**
 * Trains until the plan is done or `stopRequested` says so; either way the last thing written is a checkpoint.
 * @throws UserError when the loss stops being a number; the checkpoints written so far stay valid
 */
export async function runTraining(run: TrainRun): Promise<TrainEnd> {
  const { plan, trainee, reporter } = run;
  const first = run.resume?.state.step ?? 0;
  const before = run.resume?.state.seconds ?? 0;
  const started = performance.now();
  const seconds = () => before + (performance.now() - started) / 1000;
  const metrics = new MetricsLog(join(run.out, 'metrics.jsonl'), first);
  let optimizer: AdamW = createOptimizer(trainee.parameters, run.optimizer);
  if (run.resume) restoreCheckpoint(run.resume, optimizer);
  let saved = run.resume?.folder ?? '';
  let savedStep = run.resume ? first : -1;

  const save = (step: number, { phase, epoch }: Position) => {
    if (step === savedStep) return;
    const stage = phase.kind === 'stage' ? phase.index : 0;
    const fields = { step, totalSteps: plan.totalSteps, phase: phase.name, epoch, stage, seconds: seconds() };
    const parts = { recipe: run.recipe, optimizer, saveModel: (folder: string) => trainee.save(folder, phase) };
    saved = writeCheckpoint(run.out, captureState(fields, run.device), parts, run.checkpoint.keep);
    savedStep = step;
  };

  try {
    for (let step = first; step < plan.totalSteps; step++) {
      const position = positionOf(plan, step);
      const { phase, phaseStep } = position;
      const fresh = startsFresh(run, phase);
      if (phaseStep === 0 && fresh && step > 0) {
        optimizer.dispose();
        optimizer = createOptimizer(trainee.parameters, run.optimizer);
      }
      const [base, schedule] =
        phase.kind === 'pretrain'
          ? [run.pretrain[phase.index]!.lr, run.pretrain[phase.index]!.schedule]
          : [run.optimizer.lr, run.schedule];
      const lr = learningRate(base, schedule, phaseStep, phase.steps, fresh);
      const begun = performance.now();
      const micros = await run.batches(position);
      const result = stepOrExplain(
        () => trainStep(trainee, optimizer, micros, lr, run.optimizer.clip),
        step,
        phase,
        saved,
      );
      disposeBatches(micros);
      const stage = phase.kind === 'stage' ? phase.index : 0;
      const { samples, ...numbers } = result;
      const entry = {
        kind: 'step' as const,
        step: step + 1,
        phase: phase.name,
        epoch: position.epoch,
        stage,
        ...numbers,
        lr,
        samplesPerSecond: samples / ((performance.now() - begun) / 1000),
      };
      metrics.append(entry);
      reporter.step(entry, plan.totalSteps);
      const last = step + 1 === plan.totalSteps;
      const reason = run.stopRequested();
      // The stage's model comes before the checkpoint: a kill between the two repeats the step, the other order would lose the model.
      if (position.phaseEnd && run.checkpoint.stageModels) {
        writeFolderAtomic(join(run.out, 'models', phase.name), (folder) => trainee.save(folder, phase));
      }
      if (last || reason || isDue(run.checkpoint, step + 1, position)) save(step + 1, position);
      if (position.epochEnd && !reason) {
        const held = await run.validate(position);
        if (held) {
          metrics.append({
            kind: 'validation',
            step: step + 1,
            phase: phase.name,
            epoch: position.epoch,
            stage,
            ...held,
          });
          reporter.note(
            `epoch ${position.epoch} (${phase.name}): accuracy ${held.accuracy.toFixed(3)} on ${held.samples} held-out samples, ` +
              `${held.autoregressiveSteps.toFixed(1)} steps each`,
          );
        }
      }
      if (reason && !last) return { step: step + 1, stopped: reason, checkpoint: saved, seconds: seconds() };
      // Signals and timers are handled here; the step itself never lets go of the thread.
      await new Promise((resolve) => setImmediate(resolve));
    }
    const lastPhase = plan.phases.at(-1)!;
    writeFolderAtomic(join(run.out, 'model'), (folder) => trainee.save(folder, lastPhase));
    return { step: plan.totalSteps, stopped: null, checkpoint: saved, seconds: seconds() };
  } finally {
    optimizer.dispose();
  }
}

function isDue(options: CheckpointOptions, step: number, position: Position): boolean {
  if (options.everySteps !== null && step % options.everySteps === 0) return true;
  return options.everyEpochs !== null && position.epochEnd && (position.epoch + 1) % options.everyEpochs === 0;
}

function stepOrExplain<T>(run: () => T, step: number, phase: Phase, checkpoint: string): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const rest = checkpoint === '' ? 'no checkpoint was written yet' : `the last checkpoint is ${checkpoint}`;
    throw new UserError(`training stopped at step ${step + 1} (${phase.name}): ${error.message}; ${rest}`);
  }
}

/** Refuses to mix two runs in one folder. */
export function requireEmptyRun(out: string): void {
  if (existsSync(checkpointRoot(out))) {
    throw new UserError(
      `${out} already holds a run: go on with --resume, or choose another folder with --set out=FOLDER`,
    );
  }
}
