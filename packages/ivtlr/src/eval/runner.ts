/** Answers the samples of a task and sums up what came of it. */

import { ImagesAhead } from '../data/images-ahead.ts';
import { pickTargetTokens } from '../data/pick-targets.ts';
import type { Sample } from '../data/sample.ts';
import { type AskEvent, type AskOptions, ask } from '../engine/ask.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import { type Ablation, swaps } from '../latent/options.ts';
import type { LatentState } from '../latent/row.ts';
import type { StepTrace } from '../latent/trace.ts';
import { AnswerPool } from '../pool/answer-pool.ts';
import type { IndexedSample } from '../tasks/read-samples.ts';
import type { Answered, Score, Split, Task } from '../tasks/task.ts';
import { ImagePool } from '../vision/image-pool.ts';
import type { EvalResult } from './report.ts';
import { type Counted, Tally } from './tally.ts';

/** A model in this process, or several processes that each have it. */
export type AskedModel = LoadedModel | AnswerPool;

export interface EvaluateOptions {
  /** Label of the result. */
  name: string;
  /** Samples answered together, in each process; one that has ended makes room for the next. */
  batch: number;
  maxNewTokens: number;
  /** Threads of each process that prepare the images of files ahead; default 0. Results do not depend on it. */
  imageThreads?: number;
  /** What is taken away from the latent steps. */
  ablation?: Ablation;
  /** Latent steps; default: as many as the model was trained with. */
  latentSteps?: number;
  /** Text put before the first generated token; part of the answer, no step. Only without latent steps. */
  answerStart?: string;
  /** Say of the latent steps, and with `traceText` of the written tokens, what they looked at. */
  trace?: boolean;
  traceText?: boolean;
  /** Give what the latent steps carry on. */
  latentStates?: boolean;
  /** Seed of random patches: every sample draws its own, by this and its place. */
  seed?: number;
  /** An answer this sample got in an earlier run, which then counts and is not asked for again. */
  restore?(sample: Sample, index: number): StoredAnswer | undefined;
  /** Called for every sample when its answer ends; restored ones as they are met. */
  onAnswer?(answer: AnsweredSample): void;
  /** Called whenever answers have ended, with the number of all so far; answer false to stop early. */
  onProgress?(done: number): boolean;
}

export interface StoredAnswer {
  answered: Answered;
  latentSteps: number;
  generatedTokens: number;
  seconds: number;
  picks: Counted['picks'];
}

export interface AnsweredSample extends StoredAnswer {
  sample: Sample;
  /** Row in its data files, those without an image counted; for made samples the place in the sequence. */
  index: number;
  score: Score;
  autoregressiveSteps: number;
  /** Image tokens that each latent step picked; empty for a restored answer. */
  picked: number[][];
  /** What each latent step looked at, with `trace`. */
  trace: StepTrace[];
  /** What each written token looked at, with `traceText`. */
  textTrace: StepTrace[];
  /** What each latent step carries on, with `latentStates`. */
  states: LatentState[];
  restored: boolean;
}

/** A sample to ask, with its place. */
type Placed = Sample & { sample: Sample; index: number };

/**
 * Answers all samples greedily, with the same result in this process and in any number of others. Between passes the event loop runs.
 * @throws UserError when there are no samples
 */
export async function evaluate(
  opened: AskedModel,
  task: Task,
  samples: AsyncIterable<Sample> | Iterable<Sample>,
  options: EvaluateOptions,
): Promise<EvalResult> {
  const { name, batch, ablation, answerStart, trace, traceText, latentStates, seed, maxNewTokens } = options;
  const latentSteps = ablation?.latentSteps ?? options.latentSteps ?? opened.settings.latents;
  const latent = ablation?.options ?? {};
  const lastStep = ablation?.lastStep;
  const inGroups = latentSteps > 0 && swaps(latent, lastStep);
  if (inGroups && batch < 2)
    throw new UserError(`${name} takes from another sample of the batch: use a batch of at least 2`);
  const tally = new Tally();
  const count = (
    { sample, index }: Placed,
    stored: StoredAnswer,
    fresh: Pick<AnsweredSample, 'picked' | 'trace' | 'textTrace' | 'states'> | null,
  ) => {
    const score = task.score(sample, stored.answered);
    tally.add({ ...stored, ...score, groups: task.groups(sample) });
    const autoregressiveSteps = stored.latentSteps + stored.generatedTokens;
    const { picked, trace, textTrace, states } = fresh ?? { picked: [], trace: [], textTrace: [], states: [] };
    const looked = { picked, trace, textTrace, states };
    options.onAnswer?.({ sample, index, ...stored, score, autoregressiveSteps, ...looked, restored: !fresh });
  };
  const pending = unanswered(samples, options, (placed, stored) => count(placed, stored, null));
  const { imageThreads = 0 } = options;
  const seedOf = seed === undefined ? undefined : ({ index }: Placed) => (seed * 1_000_003 + index) % 2 ** 52;
  const asking = {
    ...{ rows: batch, latentSteps, latent, lastStep, task: task.name, maxNewTokens, answerStart },
    ...{ trace, traceText, latentStates },
    seed: seedOf,
  };
  const grouped = (placed: AsyncIterable<Placed>) =>
    inGroups ? partnered(chunks(placed, batch, 2), name) : chunks(placed, 1, 1);
  const events =
    opened instanceof AnswerPool
      ? opened.ask(grouped(pending), { ...asking, imageThreads })
      : askHere(opened, pending, grouped, asking, imageThreads);
  for await (const event of events) {
    if (event.type === 'error') throw ofSample(event.question.sample, event.error);
    if (event.type !== 'end') continue;
    const { question, answer } = event;
    const { promptIds, text, tokens, picked, seconds } = answer;
    const targets = pickTargetTokens(question.sample, answer.images);
    count(
      question,
      {
        answered: { prompt: opened.tokenizer.decode([...promptIds]), generated: text },
        latentSteps,
        generatedTokens: tokens.length,
        seconds: Object.values(seconds).reduce((a, b) => a + b, 0),
        picks: countPicks(targets, picked),
      },
      answer,
    );
    if (options.onProgress?.(tally.samples) === false) break;
  }
  if (tally.samples === 0) throw new UserError('there are no samples to answer');
  return tally.result(name);
}

/** Asks in this process, with images prepared ahead by threads. */
async function* askHere(
  opened: LoadedModel,
  pending: AsyncIterable<Placed>,
  grouped: (placed: AsyncIterable<Placed>) => AsyncIterable<Placed[]>,
  asking: AskOptions<Placed> & { rows: number },
  imageThreads: number,
): AsyncGenerator<AskEvent<Placed>, void> {
  const threads = imageThreads > 0 ? new ImagePool(opened.inputs.preparation, imageThreads) : null;
  const images = new ImagesAhead(opened.inputs, threads);
  try {
    yield* ask(opened, grouped(images.follow(pending, 2 * asking.rows)), {
      ...{ ...asking, textDeltas: false },
      processImage: (image) => images.processImage(image),
    });
  } finally {
    await threads?.close();
  }
}

/** Groups of which each sample can take from another. */
async function* partnered(groups: AsyncIterable<Placed[]>, name: string): AsyncGenerator<Placed[]> {
  for await (const group of groups) {
    if (group.length < 2)
      throw new UserError(`${name} takes from another sample of the batch, but there is only one sample to answer`);
    yield group;
  }
}

/** An error about a question that says which sample it is. */
function ofSample({ id }: Sample, { message }: UserError): UserError {
  return new UserError(`sample ${id}: ${message.replace(/^sample question: /, '')}`);
}

/** How many latent steps picked one of the image tokens that the task names for them. */
function countPicks(allTargets: readonly number[][] | undefined, allPicked: readonly number[][]): Counted['picks'] {
  const picks = { named: 0, right: 0 };
  allPicked.forEach((picked, step) => {
    const targets = allTargets?.[step];
    if (!targets || targets.length === 0 || picked.length === 0) return;
    picks.named++;
    picks.right += Number(targets.some((target) => picked.includes(target)));
  });
  return picks;
}

/** Numbers the samples and hands on those without an earlier answer. */
async function* unanswered(
  samples: AsyncIterable<Sample> | Iterable<Sample>,
  options: EvaluateOptions,
  onRestored: (placed: Placed, stored: StoredAnswer) => void,
): AsyncGenerator<Placed> {
  let place = 0;
  for await (const sample of samples) {
    const index = (sample as Partial<IndexedSample>).rowIndex ?? place;
    place++;
    const stored = options.restore?.(sample, index);
    const placed = { ...sample, sample, index };
    if (stored) onRestored(placed, stored);
    else yield placed;
  }
}

/** `count` samples of a task's generator. @throws UserError when it has none */
export function* generatedSamples(task: Task, seed: number, split: Split, count: number): Generator<Sample> {
  const { generator } = task;
  if (!generator) throw new UserError(`task ${task.name} cannot make its own samples; give a folder of Parquet files`);
  for (let index = 0; index < count; index++) yield generator.sample(seed, split, index);
}

/** Items in groups of `size`; a last group of fewer than `least` joins the one before, if there is one. */
async function* chunks<T>(items: AsyncIterable<T>, size: number, least: number): AsyncGenerator<T[]> {
  let ready: T[] | null = null;
  let chunk: T[] = [];
  for await (const item of items) {
    chunk.push(item);
    if (ready && chunk.length >= least) {
      yield ready;
      ready = null;
    }
    if (chunk.length < size) continue;
    if (least > 1) ready = chunk;
    else yield chunk;
    chunk = [];
  }
  if (ready) yield chunk.length < least ? [...ready, ...chunk] : ready;
  if (chunk.length > 0 && (!ready || chunk.length >= least)) yield chunk;
}
