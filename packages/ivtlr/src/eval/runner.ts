/** Answers samples in batches and counts: accuracy by both scorers, autoregressive steps, time, and whether the picks were right. */
import { manualSeed } from '@ivtlr/torch';
import { collate } from '../data/collate.ts';
import { renderInference, tokenizeSample } from '../data/render.ts';
import type { Sample } from '../data/sample.ts';
import { latentOptions, type ModelFolder } from '../engine/model-folder.ts';
import { UserError } from '../errors.ts';
import { type GenerateResult, generateAll } from '../latent/generate.ts';
import type { Ablation } from '../latent/options.ts';
import type { StepTrace } from '../latent/trace.ts';
import type { ProcessedImage } from '../models/types.ts';
import { type IndexedSample, streamSamples } from '../tasks/read-samples.ts';
import type { Answered, Score, Split, Task } from '../tasks/task.ts';
import type { EvalResult } from './report.ts';

export interface EvaluateOptions {
  /** Label of the result. */
  name: string;
  /** Samples answered together. */
  batch: number;
  maxNewTokens: number;
  /** What is taken away from the latent steps. */
  ablation?: Ablation;
  /** Latent steps; default: as many as the model was trained with. */
  latents?: number;
  /** Seeds torch's generator, which random patches draw from. */
  seed?: number;
  /** Called for every sample, in order. */
  onAnswer?(answer: AnsweredSample): void;
  /** Called after every batch; answer false to stop early. */
  onBatch?(done: number): boolean;
}

export interface AnsweredSample {
  sample: Sample;
  answered: Answered;
  score: Score;
  autoregressiveSteps: number;
  /** What each latent step looked at. */
  trace: StepTrace[];
}

/** Answers all samples greedily. Between batches the event loop runs. @throws UserError when there are no samples */
export async function evaluate(
  opened: ModelFolder,
  task: Task,
  samples: AsyncIterable<Sample> | Iterable<Sample>,
  options: EvaluateOptions,
): Promise<EvalResult> {
  const latents = options.ablation?.latents ?? options.latents ?? opened.settings.latents;
  const tally = { samples: 0, strict: 0, official: 0, generated: 0, picks: 0, picksRight: 0, seconds: 0 };
  if (options.seed !== undefined) manualSeed(options.seed);
  for await (const chunk of chunks(samples, options.batch)) {
    const started = performance.now();
    const { prompts, result } = await answerBatch(opened, task, chunk, latents, options);
    chunk.forEach((sample, row) => {
      const tokens = result.tokens[row]!;
      const answered = { prompt: prompts[row]!, generated: opened.tokenizer.decode(tokens) };
      const score = task.score(sample, answered);
      tally.strict += Number(score.strict);
      tally.official += Number(score.official);
      tally.generated += tokens.length;
      result.traces[row]!.forEach(({ picked }, step) => {
        const targets = sample.pickTargets?.[step];
        if (!targets || targets.length === 0 || picked.length === 0) return;
        tally.picks++;
        tally.picksRight += Number(targets.some((target) => picked.includes(target)));
      });
      const steps = result.autoregressiveSteps[row]!;
      const trace = result.traces[row]!;
      options.onAnswer?.({ sample, answered, score, autoregressiveSteps: steps, trace });
    });
    tally.samples += chunk.length;
    tally.seconds += (performance.now() - started) / 1000;
    if (options.onBatch?.(tally.samples) === false) break;
    await new Promise((resolve) => setImmediate(resolve));
  }
  if (tally.samples === 0) throw new UserError('there are no samples to answer');
  const generatedTokens = tally.generated / tally.samples;
  return {
    name: options.name,
    samples: tally.samples,
    correctStrict: tally.strict,
    correctOfficial: tally.official,
    latentSteps: latents,
    generatedTokens,
    autoregressiveSteps: latents + generatedTokens,
    secondsPerSample: tally.seconds / tally.samples,
    ...(tally.picks > 0 && { pickAccuracy: tally.picksRight / tally.picks }),
  };
}

/** One batch from pictures to tokens. */
async function answerBatch(
  opened: ModelFolder,
  task: Task,
  samples: readonly Sample[],
  latents: number,
  options: EvaluateOptions,
): Promise<{ prompts: string[]; result: GenerateResult }> {
  const render = opened.renderOptions(task.name);
  const images: ProcessedImage[] = [];
  try {
    const rows = [];
    const prompts: string[] = [];
    for (const sample of samples) {
      const image = await opened.processImage(sample.image);
      images.push(image);
      const tokenized = await tokenizeSample(sample, image.tokens, 'infer', render);
      prompts.push(opened.tokenizer.decode(tokenized.promptIds));
      rows.push(renderInference(tokenized, latents));
    }
    const { eosId } = opened.tokenizer;
    const batch = collate(rows, images, eosId);
    const result = generateAll(opened.model, batch, {
      ...latentOptions(opened.settings),
      ...options.ablation?.options,
      maxNewTokens: options.maxNewTokens,
      eosIds: [eosId],
    });
    return { prompts, result };
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
): AsyncGenerator<IndexedSample> {
  yield* streamSamples(folder, task, { split, limit: count });
}

async function* chunks<T>(items: AsyncIterable<T> | Iterable<T>, size: number): AsyncGenerator<T[]> {
  let chunk: T[] = [];
  for await (const item of items) {
    chunk.push(item);
    if (chunk.length < size) continue;
    yield chunk;
    chunk = [];
  }
  if (chunk.length > 0) yield chunk;
}
