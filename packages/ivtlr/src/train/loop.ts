/** The training loop: walks through the plan, writes metrics and checkpoints, validates, and stops cleanly when asked. */
import { join } from 'node:path';
import type { Optimizer } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { jsonFile, writeFiles } from '../file-contents.ts';
import { writeFolderAtomic } from '../files.ts';
import { disposeBatches, type MicroBatch } from './batches.ts';
import { BatchesAhead } from './batches-ahead.ts';
import { type Checkpoint, captureState, restoreCheckpoint, runFiles, wholeOptimizerFile } from './checkpoint.ts';
import { CheckpointWriter } from './checkpoint-writer.ts';
import { MetricsLog, readMetrics, type StepMetrics } from './metrics.ts';
import type { CheckpointOptions, LoopOptions } from './options.ts';
import { learningRate, type Phase, type Plan, type Position, positionOf } from './schedule.ts';
import { SpikeGuard } from './spike-guard.ts';
import { createOptimizer, type Trainee, trainStep, type Verdict } from './step.ts';
import { EventWriter } from './tensorboard.ts';

/** Where a run tells how it is getting on; the terminal's part is the caller's. */
export interface TrainReporter {
  step(metrics: StepMetrics, totalSteps: number): void;
  /** A line worth keeping, such as a held-out accuracy. */
  note(text: string): void;
}

export interface HeldOut {
  accuracy: number;
  samples: number;
  autoregressiveSteps: number;
}

export interface Validation {
  /** Whether the end of this step is followed by a validation. */
  isDue(position: Position): boolean;
  /** Held-out accuracy of the model as it is at the end of this step. */
  measure(position: Position): Promise<HeldOut>;
}

/** Everything one run needs. */
export interface TrainRun {
  /** The loop's part of the recipe; the recipe as a whole, which it belongs to, is stored beside each checkpoint. */
  recipe: LoopOptions;
  plan: Plan;
  trainee: Trainee;
  /** The micro-batches of one step; must depend on the position alone. */
  batches(position: Position): Promise<MicroBatch[]>;
  validation: Validation;
  device: string;
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
  return phase.kind === 'pretrain' || phase === firstStage || run.recipe.resetOptimizerAtStage;
}

/**
 * Trains until the plan is done or `stopRequested` says so; either way the last thing written is a checkpoint.
 * @throws UserError when the loss stops being a number; the checkpoints written so far stay valid
 */
export async function runTraining(run: TrainRun): Promise<TrainEnd> {
  const { recipe, plan, trainee, reporter, validation } = run;
  const { out } = recipe;
  const first = run.resume?.state.step ?? 0;
  const before = run.resume?.state.seconds ?? 0;
  const started = performance.now();
  const seconds = () => before + (performance.now() - started) / 1000;
  const metrics = new MetricsLog(join(out, 'metrics.jsonl'), first);
  const events = recipe.tensorboard
    ? new EventWriter(join(out, 'tensorboard'), run.resume ? { purgeFrom: first + 1 } : {})
    : null;
  const earlier = readMetrics(metrics.path);
  let best = earlier.reduce((most, entry) => (entry.kind === 'validation' ? Math.max(most, entry.accuracy) : most), -1);
  let optimizer = firstOptimizer(run);
  const checkpoints = new CheckpointWriter(out, recipe.checkpoint.keep, run.resume?.folder);
  let savedStep = run.resume ? first : -1;

  /** Copies the checkpoint; it is written while training goes on. */
  const save = async (step: number, { phase, epoch }: Position) => {
    if (step === savedStep) return;
    const stage = phase.kind === 'stage' ? phase.index : 0;
    const fields = { step, totalSteps: plan.totalSteps, phase: phase.name, epoch, stage, seconds: seconds() };
    await checkpoints.begin();
    const state = captureState(fields, run.device);
    checkpoints.start(step, [...trainee.files(phase), wholeOptimizerFile(optimizer), ...runFiles(recipe, state)]);
    savedStep = step;
  };

  const guard = new SpikeGuard(recipe.guard);
  const judge = (loss: number, samples: string, step: number): Verdict => {
    const usual = guard.look(loss);
    if (usual === null) return 'step';
    const what = `the loss ${loss.toFixed(3)} is far above the usual ${usual.toFixed(3)} on the samples ${samples}`;
    if (recipe.guard.onSpike === 'stop') throw new UserError(`${what} (guard.onSpike is stop)`);
    reporter.note(`step ${step}: ${what}${recipe.guard.onSpike === 'skip' ? '; they are left out' : ''}`);
    return recipe.guard.onSpike === 'skip' ? 'skip' : 'step';
  };

  /** After `step` finished steps. */
  const validate = async (step: number, position: Position) => {
    const { phase, epoch } = position;
    const held = await validation.measure(position);
    // What is told of a step, and the best model, must not be ahead of the checkpoint that a killed run goes on from.
    await checkpoints.finish();
    if (recipe.checkpoint.best && held.accuracy > best) {
      writeFolderAtomic(join(out, 'best'), (folder) => {
        writeFiles(folder, [...trainee.files(phase), jsonFile('validation.json', { step, epoch, ...held })]);
      });
    }
    best = Math.max(best, held.accuracy);
    const stage = phase.kind === 'stage' ? phase.index : 0;
    // Last: a run killed before this line validates again when it is resumed.
    metrics.append({ kind: 'validation', step, phase: phase.name, epoch, stage, ...held });
    events?.scalars(step, {
      'validation/accuracy': held.accuracy,
      'validation/autoregressive_steps': held.autoregressiveSteps,
    });
    reporter.note(
      `epoch ${epoch} (${phase.name}): accuracy ${held.accuracy.toFixed(3)} on ${held.samples} held-out samples, ` +
        `${held.autoregressiveSteps.toFixed(1)} steps each`,
    );
  };

  const batches = new BatchesAhead((step) => run.batches(positionOf(plan, step)), plan.totalSteps);
  try {
    if (first > 0) {
      const position = positionOf(plan, first - 1);
      for (const entry of earlier) {
        if (entry.kind === 'step' && entry.phase === position.phase.name) guard.look(entry.loss);
      }
      const done = earlier.some((entry) => entry.kind === 'validation' && entry.step === first);
      if (validation.isDue(position) && !done) await validate(first, position);
    }
    for (let step = first; step < plan.totalSteps; step++) {
      const position = positionOf(plan, step);
      const { phase, phaseStep } = position;
      const fresh = startsFresh(run, phase);
      if (phaseStep === 0) guard.reset();
      if (phaseStep === 0 && fresh && step > 0) {
        optimizer.dispose();
        optimizer = createOptimizer(trainee.parameters, recipe.optimizer);
      }
      const [base, schedule] =
        phase.kind === 'pretrain'
          ? [recipe.pretrain[phase.index]!.lr, recipe.pretrain[phase.index]!.schedule]
          : [recipe.optimizer.lr, recipe.schedule];
      const lr = learningRate(base, schedule, phaseStep, phase.steps, fresh);
      const stepStarted = performance.now();
      const micros = await batches.take(step);
      const result = await stepOrExplain(
        () => {
          try {
            return trainStep(trainee, optimizer, micros, lr, recipe.optimizer.clip, (loss, samples) =>
              judge(loss, samples, step + 1),
            );
          } finally {
            disposeBatches(micros);
          }
        },
        step,
        phase,
        checkpoints,
      );
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
        samplesPerSecond: samples / ((performance.now() - stepStarted) / 1000),
      };
      metrics.append(entry);
      events?.scalars(step + 1, scalarsOf(entry));
      reporter.step(entry, plan.totalSteps);
      const last = step + 1 === plan.totalSteps;
      const reason = run.stopRequested();
      // The stage's model comes before the checkpoint: a kill between the two repeats the step, the other order would lose the model.
      if (position.phaseEnd && recipe.checkpoint.stageModels) {
        writeFolderAtomic(join(out, 'models', phase.name), (folder) => writeFiles(folder, trainee.files(phase)));
      }
      const validates = validation.isDue(position);
      // Before validation: what happens there must not cost the work so far.
      if (last || reason || validates || isDue(recipe.checkpoint, step + 1, position)) await save(step + 1, position);
      if (validates && !reason) await validate(step + 1, position);
      if (reason && !last) {
        await checkpoints.finish();
        return { step: step + 1, stopped: reason, checkpoint: checkpoints.latest!, seconds: seconds() };
      }
      // Signals and timers are handled here; the step itself never lets go of the thread.
      await new Promise((resolve) => setImmediate(resolve));
      checkpoints.poll();
    }
    await checkpoints.finish();
    const lastPhase = plan.phases.at(-1)!;
    writeFolderAtomic(join(out, 'model'), (folder) => writeFiles(folder, trainee.files(lastPhase)));
    return { step: plan.totalSteps, stopped: null, checkpoint: checkpoints.latest!, seconds: seconds() };
  } finally {
    await checkpoints.close();
    await batches.close();
    optimizer.dispose();
  }
}

/** Fresh, or as the checkpoint has it. */
function firstOptimizer({ trainee, recipe, resume, device }: TrainRun): Optimizer {
  const optimizer = createOptimizer(trainee.parameters, recipe.optimizer);
  try {
    if (resume) restoreCheckpoint(resume, optimizer, device);
    return optimizer;
  } catch (error) {
    optimizer.dispose();
    throw error;
  }
}

function scalarsOf(entry: StepMetrics): Record<string, number> {
  return {
    'train/loss': entry.loss,
    'train/cross_entropy': entry.crossEntropy,
    'train/token_accuracy': entry.tokenAccuracy,
    'train/gradient_norm': entry.gradNorm,
    'train/learning_rate': entry.lr,
    'train/samples_per_second': entry.samplesPerSecond,
    'train/stage': entry.stage,
  };
}

function isDue(options: CheckpointOptions, step: number, position: Position): boolean {
  if (options.everySteps !== null && step % options.everySteps === 0) return true;
  return options.everyEpochs !== null && position.epochEnd && (position.epoch + 1) % options.everyEpochs === 0;
}

async function stepOrExplain<T>(run: () => T, step: number, phase: Phase, checkpoints: CheckpointWriter): Promise<T> {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    await checkpoints.close();
    const { latest } = checkpoints;
    const rest = latest === null ? 'no checkpoint was written yet' : `the last checkpoint is ${latest}`;
    throw new UserError(`training stopped at step ${step + 1} (${phase.name}): ${error.message}; ${rest}`);
  }
}
