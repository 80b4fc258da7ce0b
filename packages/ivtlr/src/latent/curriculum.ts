/** The latent curriculum: which written steps a stage replaces by latent steps. */

export interface CurriculumOptions {
  /** The last stage that drops one more step; 0 is plain chain-of-thought training. */
  maxLatentStage: number;
  /** Beyond the last stage: always `maxLatentStage` latent steps (true), or not more than the sample has written steps. */
  padLatentToMax: boolean;
}

export interface StagePlan {
  /** T: number of latent slots. */
  latentSteps: number;
  /** Written steps left out, counted from the first. May exceed the number of steps a sample has. */
  droppedSteps: number;
}

/** What stage `stage` does to a sample with `numberOfSteps` written steps. */
export function curriculum(stage: number, options: CurriculumOptions, numberOfSteps: number): StagePlan {
  if (!Number.isInteger(stage) || stage < 0) throw new RangeError(`stage must be a whole number >= 0, not ${stage}`);
  if (stage <= options.maxLatentStage) return { latentSteps: stage, droppedSteps: stage };
  const latentSteps = options.padLatentToMax ? options.maxLatentStage : Math.min(numberOfSteps, options.maxLatentStage);
  return { latentSteps, droppedSteps: numberOfSteps };
}

/** Whether latent steps have taken the place of all written steps of samples that have at most `maxSteps`. */
export function replacesAllSteps(stage: number, { maxLatentStage }: CurriculumOptions, maxSteps: number): boolean {
  return stage > 0 && (stage >= maxSteps || stage > maxLatentStage);
}

/**
 * Stage of a 0-based epoch.
 * @param epochsPerStage of every stage, or of each: the last stage of a list lasts, and one of 0 epochs is skipped
 */
export function stageOf(epoch: number, epochsPerStage: number | readonly number[]): number {
  if (typeof epochsPerStage === 'number') return Math.floor(epoch / epochsPerStage);
  let end = 0;
  for (const [stage, epochs] of epochsPerStage.entries()) {
    end += epochs;
    if (epoch < end) return stage;
  }
  return epochsPerStage.length - 1;
}
