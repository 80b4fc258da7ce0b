/** The training loop: walks through the plan, writes metrics and checkpoints, validates, and stops cleanly when asked. */
import { join } from 'node:path';
import { type AdamWOptions, HostMemory } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { type FileContent, jsonFile, writeFiles } from '../file-contents.ts';
import { writeFileAtomic, writeFolderAtomic } from '../files.ts';
import { ALONE, type Ranks } from '../parallel/ranks.ts';
import { type Update, WholeUpdate } from '../parallel/update.ts';
import { agree, type Failure } from './agreement.ts';
import { disposeBatches, type MicroBatch } from './batches.ts';
import { BatchesAhead } from './batches-ahead.ts';
import { type Checkpoint, captureState, type RunInputs, restoreCheckpoint, runFiles } from './checkpoint.ts';
import { runFile } from './checkpoint-names.ts';
import { type CheckpointPeers, CheckpointWriter } from './checkpoint-writer.ts';
import { MetricsLog, readMetrics, type StepMetrics } from './metrics.ts';
import { optimizerFile } from './optimizer-files.ts';
import type { CheckpointOptions, LoopOptions, OptimizerOptions } from './options.ts';
import { learningRate, type Phase, type Plan, type Position, positionOf } from './schedule.ts';
import { SpikeGuard } from './spike-guard.ts';
import { type Trainee, trainStep, type Verdict } from './step.ts';
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
  /** The processes of the run; default: this one alone. */
  ranks?: Ranks;
  /** How they tell each other how far a checkpoint is. */
  peers?: CheckpointPeers | undefined;
  /** What moves the trainee's parameters; default: for one process. The loop disposes of it. */
  update?: Update;
  /** This process's micro-batches of one step; must depend on the position alone. */
  batches(position: Position): Promise<MicroBatch[]>;
  validation: Validation;
  device: string;
  resume: Checkpoint | null;
  /** Of the first process: what the run reads, stored with each checkpoint. */
  inputs?: RunInputs;
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
 * Trains until the plan is done or `stopRequested` says so; either way the last thing written is a checkpoint. With several processes all of
 * them call this; the first one writes.
 * @throws UserError when the loss stops being a number; the checkpoints written so far stay valid
 */
export async function runTraining(run: TrainRun): Promise<TrainEnd> {
  const { recipe, plan, trainee, reporter, validation, ranks = ALONE } = run;
  const { out } = recipe;
  const first = run.resume?.state.step ?? 0;
  const before = run.resume?.state.seconds ?? 0;
  const started = performance.now();
  const seconds = () => before + (performance.now() - started) / 1000;
  const isFirst = ranks.rank === 0;
  const metricsFile = join(out, 'metrics.jsonl');
  const earlier = readMetrics(metricsFile).filter(({ step }) => step <= first);
  let best = earlier.reduce((most, entry) => (entry.kind === 'validation' ? Math.max(most, entry.accuracy) : most), -1);
  const checkpoints = new CheckpointWriter(out, recipe.checkpoint.keep, run.resume?.folder, run.peers);
  let savedStep = run.resume ? first : -1;

  let failure = null as Failure | null;
  /** Work that needs no other process; what goes wrong is told to the others when they next agree. */
  const byItself = async <T>(work: () => T | Promise<T>): Promise<T | null> => {
    try {
      return await work();
    } catch (error) {
      if (ranks.size === 1) throw error;
      failure ??= { failed: error };
      return null;
    }
  };
  /** What the first process does for all. */
  const byFirst = <T>(work: () => T | Promise<T>): Promise<T | null> =>
    isFirst ? byItself(work) : Promise.resolve(null);
  const metrics = await byFirst(() => {
    const { totalSteps } = plan;
    writeFileAtomic(join(out, runFile), `${JSON.stringify({ totalSteps, recipe }, null, 2)}\n`);
    return new MetricsLog(metricsFile, first);
  });
  const events = recipe.tensorboard
    ? await byFirst(() => new EventWriter(join(out, 'tensorboard'), run.resume ? { purgeFrom: first + 1 } : {}))
    : null;
  const update = preparedUpdate(run);

  /** The checkpoint is copied until parameters change again, and written while training goes on. */
  const save = async (step: number, { phase, epoch }: Position) => {
    if (step === savedStep) return;
    const memory = await byItself(() => checkpoints.begin());
    agree(ranks, failure);
    const weights = update.copyParameters(memory!, trainee.savesTrainedOnly ?? false);
    await byItself(() => {
      const { step: steps, tensors, pieces } = update.state();
      const files: FileContent[] = [optimizerFile(ranks.rank, ranks.size, steps, tensors, pieces)];
      if (isFirst) {
        const stage = phase.kind === 'stage' ? phase.index : 0;
        const { totalSteps } = plan;
        const { inputs = {} } = run;
        const fields = { step, totalSteps, phase: phase.name, epoch, stage, seconds: seconds(), inputs };
        const state = captureState(fields, run.device);
        files.unshift(...trainee.files(phase, weights ?? undefined), ...runFiles(recipe, state));
      }
      checkpoints.start(step, files);
    });
    savedStep = step;
  };
  const finishCheckpoint = async () => {
    await byItself(() => checkpoints.finish());
    agree(ranks, failure);
  };
  const saveModel = async (folder: string, phase: Phase, more: readonly FileContent[] = []) => {
    const memory = new HostMemory();
    const weights = update.copyParameters(memory, trainee.savesTrainedOnly ?? false) ?? undefined;
    memory.finishCopies();
    await byFirst(() =>
      writeFolderAtomic(folder, (temporary) => writeFiles(temporary, [...trainee.files(phase, weights), ...more])),
    );
  };

  const guard = new SpikeGuard(recipe.guard);
  const judge = (loss: number, samples: () => string, step: number): Verdict => {
    const usual = guard.look(loss);
    if (usual === null) return 'step';
    const what = `the loss ${loss.toFixed(3)} is far above the usual ${usual.toFixed(3)} on the samples ${samples()}`;
    if (recipe.guard.onSpike === 'stop') throw new UserError(`${what} (guard.onSpike is stop)`);
    reporter.note(`step ${step}: ${what}${recipe.guard.onSpike === 'skip' ? '; they are left out' : ''}`);
    return recipe.guard.onSpike === 'skip' ? 'skip' : 'step';
  };

  /** After `step` finished steps. */
  const validate = async (step: number, position: Position) => {
    const { phase, epoch } = position;
    const held = await update.whole(() => validation.measure(position));
    // What is told of a step, and the best model, must not be ahead of the checkpoint that a killed run goes on from.
    await finishCheckpoint();
    if (recipe.checkpoint.best && held.accuracy > best) {
      await saveModel(join(out, 'best'), phase, [jsonFile('validation.json', { step, epoch, ...held })]);
    }
    best = Math.max(best, held.accuracy);
    const stage = phase.kind === 'stage' ? phase.index : 0;
    await byFirst(() => {
      // Last: a run killed before this line validates again when it is resumed.
      metrics?.append({ kind: 'validation', step, phase: phase.name, epoch, stage, ...held });
      events?.scalars(step, {
        'validation/accuracy': held.accuracy,
        'validation/autoregressive_steps': held.autoregressiveSteps,
      });
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
      if (phaseStep === 0 && fresh && step > 0) update.reset();
      const [base, schedule] =
        phase.kind === 'pretrain'
          ? [recipe.pretrain[phase.index]!.lr, recipe.pretrain[phase.index]!.schedule]
          : [recipe.optimizer.lr, recipe.schedule];
      const lr = learningRate(base, schedule, phaseStep, phase.steps, fresh);
      const stepStarted = performance.now();
      const taken = failure ?? (await batches.take(step).catch((error: unknown) => ({ failed: error })));
      // Rows that cannot be used are an error of their own, not of the step.
      if ('failed' in taken && ranks.size === 1) throw taken.failed;
      const result = await stepOrExplain(
        () => {
          try {
            return trainStep(trainee, taken, {
              ...{ ranks, update, lr, clip: recipe.optimizer.clip },
              beforeUpdate: () => checkpoints.copied(),
              judge: (loss, samples) => judge(loss, samples, step + 1),
            });
          } finally {
            if (!('failed' in taken)) disposeBatches(taken);
          }
        },
        step,
        phase,
        ranks,
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
      await byFirst(() => {
        metrics?.append(entry);
        events?.scalars(step + 1, scalarsOf(entry));
      });
      reporter.step(entry, plan.totalSteps);
      const last = step + 1 === plan.totalSteps;
      const stop = agree(ranks, failure, run.stopRequested());
      // The stage's model comes before the checkpoint: a kill between the two repeats the step, the other order would lose the model.
      if (position.phaseEnd && recipe.checkpoint.stageModels) await saveModel(join(out, 'models', phase.name), phase);
      const validates = validation.isDue(position);
      // Before validation: what happens there must not cost the work so far.
      if (last || stop || validates || isDue(recipe.checkpoint, step + 1, position)) await save(step + 1, position);
      if (validates && !stop) await validate(step + 1, position);
      if (stop && !last) {
        await finishCheckpoint();
        return { step: step + 1, stopped: stop, checkpoint: checkpoints.latest!, seconds: seconds() };
      }
      // Signals and timers are handled here; the step itself never lets go of the thread.
      await new Promise((resolve) => setImmediate(resolve));
      await byItself(() => checkpoints.poll());
    }
    await finishCheckpoint();
    await saveModel(join(out, 'model'), plan.phases.at(-1)!);
    agree(ranks, failure);
    return { step: plan.totalSteps, stopped: null, checkpoint: checkpoints.latest!, seconds: seconds() };
  } finally {
    await checkpoints.close();
    await batches.close();
    update.dispose();
  }
}

/** Fresh, or as the checkpoint has it. */
function preparedUpdate({ trainee, recipe, resume, device, update: given }: TrainRun): Update {
  const update = given ?? new WholeUpdate(trainee.parameters, adamWOptions(recipe.optimizer));
  try {
    if (resume) restoreCheckpoint(resume, update, device);
    return update;
  } catch (error) {
    update.dispose();
    throw error;
  }
}

export function adamWOptions({ lr, betas, eps, weightDecay }: OptimizerOptions): AdamWOptions {
  // Steps on 16-bit weights alone are lost in rounding; the official code keeps float32 copies too.
  return { lr, betas, eps, weightDecay, masterWeights: true };
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

async function stepOrExplain<T>(
  run: () => T,
  step: number,
  phase: Phase,
  ranks: Ranks,
  checkpoints: CheckpointWriter,
): Promise<T> {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    await checkpoints.close();
    // All processes come here with the same error.
    const latest = ranks.texts(checkpoints.latest ?? '', 'the last checkpoint')[0]!;
    const rest = latest === '' ? 'no checkpoint was written yet' : `the last checkpoint is ${latest}`;
    throw new UserError(`training stopped at step ${step + 1} (${phase.name}): ${error.message}; ${rest}`);
  }
}
