/** What each step trains on: samples in this epoch's order, rendered for the stage, processed and collated into micro-batches. */
import { type Batch, collate, groupByLatentSteps } from '../data/collate.ts';
import { pickTargetTokens } from '../data/pick-targets.ts';
import { type Rendered, type RenderOptions, renderSupervised, renderTraining, tokenizeSample } from '../data/render.ts';
import type { RawImage, Sample, SampleSource } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { curriculum, type StagePlan } from '../latent/curriculum.ts';
import type { ProcessedImage } from '../models/types.ts';
import { Random } from '../random.ts';
import type { SampleGenerator } from '../tasks/task.ts';
import type { LatentTrainingOptions, PretrainPhaseOptions, RampOptions } from './options.ts';
import type { Position } from './schedule.ts';

/** First words of random streams, so that shuffling, replay and ramp share no numbers. */
const STREAM = { shuffle: 101, replay: 102, ramp: 103, dropout: 104 };

/** Rows that go through the model together. */
export interface MicroBatch {
  batch: Batch<ProcessedImage>;
  /** Latent stage; 0 in pretrain phases. */
  stage: number;
  /** Names of the rows, for error messages. */
  ids: string[];
  /** Factor of this micro-batch's mean loss in the step's loss. */
  weight: number;
  /** Of the random numbers drawn while it runs; without it they go on from those before. */
  seed?: number;
}

/** A mode as the data see it: which stage an epoch trains is in the plan, what is written out is decided here. */
export interface BatchOptions {
  seed: number;
  globalBatch: number;
  microBatch: number;
  /** True: no steps are written and none are latent. */
  answerOnly: boolean;
  latent: Pick<LatentTrainingOptions, 'maxLatentStage' | 'padLatentToMax' | 'replay'>;
  pretrain: readonly PretrainPhaseOptions[];
  render: RenderOptions;
  padId: number;
  /** Positions of the model, and the most patches that a latent step inserts. */
  maxPositions: number;
  patches: number;
  /** Which process this is, of how many: it makes only its own micro-batches. Default: it is alone. */
  rank?: number;
  processes?: number;
}

/**
 * Whether a micro-batch is this process's. A step is cut into chunks of `microBatch` rows in the same way whatever the number of processes, and
 * they take the chunks in turn.
 */
export function isOwnChunk(
  chunk: number,
  { rank = 0, processes = 1 }: Pick<BatchOptions, 'rank' | 'processes'>,
): boolean {
  return chunk % processes === rank;
}

export class BatchMaker {
  readonly #source: SampleSource;
  readonly #pretraining: SampleGenerator['pretraining'];
  readonly #process: ProcessImage;
  readonly #o: BatchOptions;

  constructor(
    source: SampleSource,
    pretraining: SampleGenerator['pretraining'],
    process: ProcessImage,
    options: BatchOptions,
  ) {
    this.#source = source;
    this.#pretraining = pretraining;
    this.#process = process;
    this.#o = options;
  }

  /** The micro-batches of a step. Their image tensors belong to the caller (see `disposeBatches`). */
  async at(position: Position): Promise<MicroBatch[]> {
    const images: ProcessedImage[] = [];
    const process = async (image: RawImage) => {
      const processed = await this.#process(image);
      images.push(processed);
      return processed;
    };
    try {
      return await (position.phase.kind === 'pretrain'
        ? this.#pretrainStep(position, process)
        : this.#stageStep(position, process));
    } catch (error) {
      for (const { pixels } of images) pixels.dispose();
      throw error;
    }
  }

  async #stageStep({ phase, epoch, epochStep, phaseStep }: Position, process: ProcessImage): Promise<MicroBatch[]> {
    const { globalBatch, microBatch } = this.#o;
    const first = epochStep * globalBatch;
    const count = Math.min(globalBatch, this.#source.samplesPerEpoch - first);
    const micros: MicroBatch[] = [];
    for (let start = 0; start < count; start += microBatch) {
      const chunk = start / microBatch;
      if (!isOwnChunk(chunk, this.#o)) continue;
      const stage = this.#stageFor(phase.index, phase.start + phaseStep, start);
      const rows: Row[] = [];
      for (let i = start; i < Math.min(start + microBatch, count); i++) {
        rows.push(await this.#trainingRow(await this.#source.sample(epoch, first + i), stage, process));
      }
      micros.push(...this.#collate(rows, stage, 1 / count, phase.start + phaseStep, chunk));
    }
    return micros;
  }

  /** The stage of a micro-batch: that of the epoch, or with probability `replay` an earlier one, never stage 0. */
  #stageFor(stage: number, step: number, start: number): number {
    const { replay } = this.#o.latent;
    if (replay === 0 || stage < 2) return stage;
    const random = new Random(STREAM.replay, this.#o.seed, step, start);
    return random.between(0, 1) < replay ? 1 + random.below(stage - 1) : stage;
  }

  async #trainingRow(sample: Sample, stage: number, process: ProcessImage): Promise<Row> {
    const images: ProcessedImage[] = [];
    for (const image of sample.images) images.push(await process(image));
    const pickTargets = pickTargetTokens(sample, images);
    const placed = pickTargets ? { ...sample, pickTargets } : sample;
    const tokenized = await tokenizeSample(placed, images, 'train', this.#o.render);
    const plan = stagePlan(stage, tokenized.stepIds.length, this.#o);
    return { id: sample.id, rendered: renderTraining(tokenized, plan), images };
  }

  async #pretrainStep({ phase, phaseStep }: Position, process: ProcessImage): Promise<MicroBatch[]> {
    const { seed, microBatch, render } = this.#o;
    const { mix, ramp, name } = this.#o.pretrain[phase.index]!;
    const difficulty = ramp && rampedDifficulty(ramp, phaseStep, new Random(STREAM.ramp, seed, phase.index, phaseStep));
    const micros: MicroBatch[] = [];
    let chunk = 0;
    for (const { task, weight, batch } of mix) {
      for (let start = 0; start < batch; start += microBatch, chunk++) {
        if (!isOwnChunk(chunk, this.#o)) continue;
        const rows: Row[] = [];
        for (let i = start; i < Math.min(start + microBatch, batch); i++) {
          const index = phaseStep * batch + i;
          const drawn = this.#pretraining[task]!(seed, 'train', phase.index * 2 ** 32 + index, difficulty);
          const image = drawn.image ? await process(drawn.image) : null;
          rows.push({
            id: `${name}/${task} ${index}`,
            rendered: await renderSupervised(drawn, image, render),
            images: image ? [image] : [],
          });
        }
        micros.push(...this.#collate(rows, 0, weight / batch, phase.start + phaseStep, chunk));
      }
    }
    return micros;
  }

  /** Rows with different numbers of latent slots cannot share a batch, so each number gets its own. */
  #collate(rows: readonly Row[], stage: number, weightPerRow: number, step: number, chunk: number): MicroBatch[] {
    for (const { id, rendered } of rows) requirePositions(id, rendered, this.#o);
    const byRendered = new Map(rows.map((row) => [row.rendered, row]));
    return groupByLatentSteps(rows.map((row) => row.rendered)).map((group, i) => {
      const members = group.map((rendered) => byRendered.get(rendered)!);
      return {
        batch: collate(
          group,
          members.map((row) => row.images),
          this.#o.padId,
        ),
        stage,
        ids: members.map((row) => row.id),
        weight: weightPerRow * group.length,
        seed: new Random(STREAM.dropout, this.#o.seed, step, chunk, i).below(2 ** 31),
      };
    });
  }
}

type ProcessImage = (image: RawImage) => Promise<ProcessedImage>;

interface Row {
  id: string;
  rendered: Rendered;
  images: readonly ProcessedImage[];
}

/** What a stage makes of a sample with so many written steps. */
export function stagePlan(
  stage: number,
  steps: number,
  { answerOnly, latent }: Pick<BatchOptions, 'answerOnly' | 'latent'>,
): StagePlan {
  return answerOnly ? { latentSteps: 0, droppedSteps: steps } : curriculum(stage, latent, steps);
}

/** @throws UserError naming the row when it is longer than the model's positions; each latent slot takes those of its patches and its text */
export function requirePositions(
  id: string,
  { ids, latentSteps }: Pick<Rendered, 'ids' | 'latentSteps'>,
  { maxPositions, patches }: Pick<BatchOptions, 'maxPositions' | 'patches'>,
): void {
  const needed = ids.length + latentSteps * patches;
  if (needed <= maxPositions) return;
  throw new UserError(
    `sample ${id} takes ${needed} positions with its images and latent steps, but the model has ${maxPositions} (max_position_embeddings): use a shorter text, smaller images or fewer patches`,
  );
}

/** Frees the image tensors of micro-batches. */
export function disposeBatches(micros: readonly MicroBatch[]): void {
  for (const micro of micros) for (const { pixels } of micro.batch.images.flat()) pixels.dispose();
}

/** A whole number between `from` and a bound that rises linearly to `to`; after the ramp always `to`. */
export function rampedDifficulty(ramp: RampOptions, step: number, random: Random): number {
  if (step >= ramp.steps) return ramp.to;
  const bound = Math.round(ramp.from + (ramp.to - ramp.from) * (step / ramp.steps));
  return ramp.from + random.below(bound - ramp.from + 1);
}

/** Order of an epoch over `total` stored samples: a new shuffle each epoch. */
export function epochOrder(seed: number, epoch: number, total: number): number[] {
  return new Random(STREAM.shuffle, seed, epoch).permutation(total);
}
