/**
 * The whole run as a list of phases, worked out before the first step: pretrain phases, then one phase a latent stage. A global step number
 * alone says which phase, epoch and learning rate belong to it, so that a resumed run cannot drift from an unbroken one.
 */
import type { ScheduleOptions } from './options.ts';

/** A stretch of steps with one kind of work. Steps are global, counted from 0; the optimiser may start fresh at a phase's start. */
export interface Phase {
  kind: 'pretrain' | 'stage';
  /** Index of the pretrain phase, or the latent stage. */
  index: number;
  /** `pretrain` phases go by their recipe name; stages are `stage-0`, `stage-1`, .. */
  name: string;
  start: number;
  steps: number;
  /** First epoch of a stage (0 for pretrain phases, which have no epochs). */
  firstEpoch: number;
}

export interface Plan {
  phases: Phase[];
  totalSteps: number;
  stepsPerEpoch: number;
}

/** Where a global step stands. */
export interface Position {
  phase: Phase;
  /** Steps since the phase began. */
  phaseStep: number;
  /** Epoch (stages only, else 0) and the step inside it. */
  epoch: number;
  epochStep: number;
  /** True for the last step of an epoch or of a pretrain phase; phaseEnd for the last one of the phase. */
  epochEnd: boolean;
  phaseEnd: boolean;
}

/**
 * Lays the run out.
 * @param pretrain name and length of each phase before stage 0
 * @param stageOf epoch -> latent stage; must never fall
 */
export function planRun(
  pretrain: readonly { name: string; steps: number }[],
  numEpochs: number,
  stepsPerEpoch: number,
  stageOf: (epoch: number) => number,
): Plan {
  const phases: Phase[] = [];
  let start = 0;
  for (const [index, phase] of pretrain.entries()) {
    phases.push({ kind: 'pretrain', index, name: phase.name, start, steps: phase.steps, firstEpoch: 0 });
    start += phase.steps;
  }
  for (let epoch = 0; epoch < numEpochs; epoch++) {
    const stage = stageOf(epoch);
    const last = phases.at(-1);
    if (last?.kind === 'stage' && last.index === stage) {
      last.steps += stepsPerEpoch;
    } else {
      phases.push({
        kind: 'stage',
        index: stage,
        name: `stage-${stage}`,
        start,
        steps: stepsPerEpoch,
        firstEpoch: epoch,
      });
    }
    start += stepsPerEpoch;
  }
  return { phases, totalSteps: start, stepsPerEpoch };
}

/** The place of global step `step`, 0 <= step < totalSteps. */
export function positionOf(plan: Plan, step: number): Position {
  const phase = plan.phases.findLast((candidate) => candidate.start <= step);
  if (!phase || step >= plan.totalSteps)
    throw new RangeError(`step ${step} is outside the run of ${plan.totalSteps} steps`);
  const phaseStep = step - phase.start;
  const phaseEnd = phaseStep === phase.steps - 1;
  if (phase.kind === 'pretrain') return { phase, phaseStep, epoch: 0, epochStep: phaseStep, epochEnd: false, phaseEnd };
  const epochStep = phaseStep % plan.stepsPerEpoch;
  return {
    phase,
    phaseStep,
    epoch: phase.firstEpoch + Math.floor(phaseStep / plan.stepsPerEpoch),
    epochStep,
    epochEnd: epochStep === plan.stepsPerEpoch - 1,
    phaseEnd,
  };
}

/**
 * Learning rate of step `phaseStep` of a phase with `phaseSteps` steps.
 * @param fresh true where the optimiser started fresh with this phase: only then there is a warm-up
 */
export function learningRate(
  base: number,
  options: ScheduleOptions,
  phaseStep: number,
  phaseSteps: number,
  fresh: boolean,
): number {
  const warm = fresh && options.warmupSteps > 0 ? Math.min(1, (phaseStep + 1) / options.warmupSteps) : 1;
  const decayStart = options.decayFrom * phaseSteps;
  const decayLength = phaseSteps - decayStart;
  const progress = decayLength > 0 ? Math.max(0, phaseStep - decayStart) / decayLength : 0;
  return base * warm * (1 - (1 - options.decayTo) * progress);
}
