/** Answers samples in batches and counts: accuracy by both scorers, autoregressive steps, time, and whether the picks were right. */
import { manualSeed } from '@ivtlr/torch';
import { collate } from '../data/collate.ts';
import { pickTargetTokens } from '../data/pick-targets.ts';
import { renderInference, tokenizeSample } from '../data/render.ts';
import type { BadRows } from '../data/row.ts';
import type { Sample } from '../data/sample.ts';
import { latentOptions, type ModelFolder } from '../engine/model-folder.ts';
import { UserError } from '../errors.ts';
import { type GenerateResult, generateAll } from '../latent/generate.ts';
import type { Ablation, LatentOptions } from '../latent/options.ts';
import type { StepTrace } from '../latent/trace.ts';
import type { ProcessedImage } from '../models/types.ts';
import { type IndexedSample, streamSamples } from '../tasks/read-samples.ts';
import type { Answered, Score, Split, Task } from '../tasks/task.ts';
import { ImagesAhead } from './images-ahead.ts';
import type { EvalResult } from './report.ts';
import { type Counted, Tally } from './tally.ts';

export interface EvaluateOptions {
  /** Label of the result. */
  name: string;
  /** Samples answered together. */
  batch: number;
  maxNewTokens: number;
  /** Threads that prepare the images of files while a batch is answered; default 0. Results do not depend on it. */
  imageThreads?: number;
  /** What is taken away from the latent steps. */
  ablation?: Ablation;
  /** Latent steps; default: as many as the model was trained with. */
  latents?: number;
  /** Text put before the first generated token; part of the answer, no step. Only without latent steps. */
  answerStart?: string;
  /** Trace the written tokens too. */
  traceText?: boolean;
  /** Seeds torch's generator, which random patches draw from: anew for each batch, by the place of its first sample. */
  seed?: number;
  /** An answer this sample got in an earlier run, which then counts and is not asked for again. */
  restore?(sample: Sample, index: number): StoredAnswer | undefined;
  /** Called for every sample in the order of answering; restored ones as they are met. */
  onAnswer?(answer: AnsweredSample): void;
  /** Called after every batch; answer false to stop early. */
  onBatch?(done: number): boolean;
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
  /** What each latent step looked at; empty for a restored answer. */
  trace: StepTrace[];
  /** What each written token looked at, with `traceText`. */
  textTrace: StepTrace[];
  restored: boolean;
}

interface Placed {
  sample: Sample;
  index: number;
}

/** Answers all samples greedily. Between batches the event loop runs. @throws UserError when there are no samples */
export async function evaluate(
  opened: ModelFolder,
  task: Task,
  samples: AsyncIterable<Sample> | Iterable<Sample>,
  options: EvaluateOptions,
): Promise<EvalResult> {
  const latents = options.ablation?.latents ?? options.latents ?? opened.settings.latents;
  const latent = { ...latentOptions(opened.settings), ...options.ablation?.options };
  const swaps = latents > 0 && (latent.latentText === 'swap' || latent.latentVision === 'swap');
  if (swaps && options.batch < 2) {
    throw new UserError(`${options.name} takes from another sample of the batch: use a batch of at least 2`);
  }
  const tally = new Tally();
  const count = (placed: Placed, stored: StoredAnswer, traced: Pick<AnsweredSample, 'trace' | 'textTrace'> | null) => {
    const { sample } = placed;
    const score = task.score(sample, stored.answered);
    tally.add({ ...stored, ...score, groups: task.groups(sample) });
    const autoregressiveSteps = stored.latentSteps + stored.generatedTokens;
    options.onAnswer?.({
      ...placed,
      ...stored,
      score,
      autoregressiveSteps,
      ...(traced ?? { trace: [], textTrace: [] }),
      restored: !traced,
    });
  };
  const pending = unanswered(samples, options, (placed, stored) => count(placed, stored, null));
  const images = new ImagesAhead(opened, options.imageThreads ?? 0);
  try {
    for await (const chunk of chunks(images.follow(pending, 2 * options.batch), options.batch, swaps ? 2 : 1)) {
      if (swaps && chunk.length < 2) {
        throw new UserError(
          `${options.name} takes from another sample of the batch, but there is only one sample to answer`,
        );
      }
      const started = performance.now();
      // By place, so that a run that went on after a stop draws what an unbroken one would have drawn.
      if (options.seed !== undefined) manualSeed((options.seed * 1_000_003 + chunk[0]!.index) % 2 ** 52);
      const batch = chunk.map(({ sample }) => sample);
      const { prompts, targets, begun, result } = await answerBatch(
        opened,
        task,
        batch,
        images,
        latents,
        latent,
        options,
      );
      const written = result.tokens.map((tokens) => readAnswer(opened, begun, tokens));
      const seconds = (performance.now() - started) / 1000 / chunk.length;
      chunk.forEach((placed, row) => {
        const trace = result.traces[row]!;
        const answered = { prompt: prompts[row]!, generated: written[row]!.text };
        const generatedTokens = written[row]!.tokens;
        const picks = countPicks(targets[row], trace);
        count(
          placed,
          { answered, latentSteps: latents, generatedTokens, seconds, picks },
          { trace, textTrace: result.textTraces[row]!.slice(0, generatedTokens) },
        );
      });
      if (options.onBatch?.(tally.samples) === false) break;
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    await images.close();
  }
  if (tally.samples === 0) throw new UserError('there are no samples to answer');
  return tally.result(options.name);
}

/**
 * Text and length of an answer. One that was begun for the model ends with its first line: a model that learned to reason goes on reasoning after
 * it, which a direct answer is not.
 * @param begun what the answer was begun with; decoded together, since tokenizers of words see spaces between tokens
 */
function readAnswer(opened: ModelFolder, begun: readonly number[], tokens: readonly number[]) {
  const decode = (count: number) => opened.tokenizer.decode([...begun, ...tokens.slice(0, count)]);
  if (begun.length > 0) {
    for (let count = 1; count <= tokens.length; count++) {
      const text = decode(count);
      if (text.includes('\n')) return { text: text.slice(0, text.indexOf('\n')), tokens: count };
    }
  }
  return { text: decode(tokens.length), tokens: tokens.length };
}

/** How many steps of a trace picked one of the image tokens the task names for them. */
function countPicks(allTargets: readonly number[][] | undefined, trace: readonly StepTrace[]): Counted['picks'] {
  const picks = { named: 0, right: 0 };
  trace.forEach(({ picked }, step) => {
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
    if (stored) onRestored({ sample, index }, stored);
    else yield { sample, index };
  }
}

/** One batch from images to tokens. */
async function answerBatch(
  opened: ModelFolder,
  task: Task,
  samples: readonly Sample[],
  prepared: ImagesAhead,
  latents: number,
  latent: LatentOptions,
  options: EvaluateOptions,
): Promise<{ prompts: string[]; targets: (number[][] | undefined)[]; begun: number[]; result: GenerateResult }> {
  const render = opened.renderOptions(task.name);
  const images: ProcessedImage[] = [];
  const { answerStart } = options;
  if (answerStart !== undefined && latents > 0) throw new Error('an answer can be begun only without latent steps');
  try {
    const [begun = []] = answerStart === undefined ? [] : await opened.tokenizer.encodeBatch([answerStart]);
    const rows = [];
    const prompts: string[] = [];
    const targets: (number[][] | undefined)[] = [];
    for (const sample of samples) {
      const image = await prepared.take(sample.image);
      images.push(image);
      targets.push(pickTargetTokens(sample, image));
      const tokenized = await tokenizeSample(sample, image.tokens, 'infer', render);
      prompts.push(opened.tokenizer.decode(tokenized.promptIds));
      rows.push(renderInference(tokenized, latents, begun));
    }
    const { eosId } = opened.tokenizer;
    const batch = collate(rows, images, eosId);
    const result = generateAll(opened.model, batch, {
      ...latent,
      maxNewTokens: options.maxNewTokens,
      eosIds: [eosId],
      trace: true,
      ...(options.traceText && { traceText: true }),
    });
    return { prompts, targets, begun, result };
  } finally {
    for (const image of images) image.pixels.dispose();
  }
}

/** `count` samples of a task's generator. @throws UserError when it has none */
export function* generatedSamples(task: Task, seed: number, split: Split, count: number): Generator<Sample> {
  const { generator } = task;
  if (!generator) throw new UserError(`task ${task.name} cannot make its own samples; give a folder of Parquet files`);
  for (let index = 0; index < count; index++) yield generator.sample(seed, split, index);
}

/** Samples of a split of a data folder; rows without an image are left out. */
export async function* storedSamples(
  task: Task,
  folder: string,
  split: Split,
  count = Infinity,
  onBad?: (bad: BadRows) => void,
): AsyncGenerator<IndexedSample> {
  yield* streamSamples(folder, task, { split, limit: count, ...(onBad && { onBad }) });
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
