/**
 * Latent reasoning over a batch whose rows are all known at the start: prompt, T latent steps, greedy decoding. All rows take the same options and as many
 * latent steps as the batch has slots; they run on the row core (row-batch.ts), so each is as it would be alone.
 */
import type { Batch } from '../data/collate.ts';
import type { VisionLanguageModel } from '../models/types.ts';
import type { Row, RowOptions, RowRequest } from './row.ts';
import { RowBatch, type RowEvent } from './row-batch.ts';
import type { StepTrace } from './trace.ts';

export type GenerateOptions = RowOptions;

export type GenerateEvent =
  /** Of all rows; `traces` is empty unless they are asked for. */
  | { type: 'latent-step'; step: number; picked: number[][]; traces: StepTrace[] }
  /** A token is null once its row has ended. */
  | { type: 'tokens'; tokens: (number | null)[] }
  | { type: 'end' };

export interface GenerateResult {
  /** Per row: generated tokens, the final EOS included. */
  tokens: number[][];
  /** Per row: latent steps + generated tokens. */
  autoregressiveSteps: number[];
  /** Per row and latent step: image-token indices in the order they were inserted. */
  picked: number[][][];
  /** Per row and latent step; empty without `trace`. */
  traces: StepTrace[][];
  /** Per row and generated token; empty without `traceText`. */
  textTraces: StepTrace[][];
  /** (B, V) as numbers: the logits the first token was chosen from; rows are empty without `firstLogits`. */
  firstLogits: number[][];
  /** Seconds: prompt and image up to the first hidden state; latent steps after it; decoding. */
  seconds: { prefill: number; latents: number; decode: number };
}

/**
 * Answers a batch of prompts whose latent slots say how many latent steps to take; what stands after the slots is read before the answer. A
 * generator, so that a caller can stream events, stop early, and let the event loop run in between.
 * @throws UserError when a row cannot go on, such as for want of image tokens
 */
export function* generate(
  model: VisionLanguageModel,
  batch: Batch,
  options: GenerateOptions,
): Generator<GenerateEvent, GenerateResult> {
  const running = new RowBatch(model);
  try {
    const started = performance.now();
    const rows = running.add(rowsOf(batch, options));
    const added = (performance.now() - started) / 1000;
    while (running.size > 0) {
      const events = running.step();
      const failed = events.find((event) => event.type === 'error');
      if (failed) throw failed.error;
      const steps = events.filter((event) => event.type === 'latent-step');
      if (steps.length > 0) yield latentStep(rows, steps);
      const tokens = events.filter((event) => event.type === 'token');
      if (tokens.length > 0) yield { type: 'tokens', tokens: rows.map((row) => idOf(tokens, row)) };
    }
    yield { type: 'end' };
    const sum = (pick: (row: Row) => number) => rows.reduce((total, row) => total + pick(row), 0);
    return {
      tokens: rows.map(({ tokens }) => tokens),
      autoregressiveSteps: rows.map(({ tokens, steps }) => tokens.length + steps),
      picked: rows.map(({ picked }) => picked),
      traces: rows.map(({ traces }) => traces),
      textTraces: rows.map(({ textTraces }) => textTraces),
      firstLogits: rows.map(({ firstLogits }) => firstLogits),
      seconds: {
        prefill: added + sum(({ seconds }) => seconds.prefill),
        latents: sum(({ seconds }) => seconds.latents),
        decode: sum(({ seconds }) => seconds.decode),
      },
    };
  } finally {
    running.dispose();
  }
}

/** All rows of a batch take each step in the same pass, since they were added together and have equally many. */
function latentStep(rows: readonly Row[], steps: readonly Extract<RowEvent, { type: 'latent-step' }>[]): GenerateEvent {
  const step = (row: Row) => steps.find((event) => event.row === row)!;
  const traces = rows.map((row) => step(row).trace).filter((trace) => trace !== null);
  return { type: 'latent-step', step: steps[0]!.step, picked: rows.map((row) => step(row).picked), traces };
}

function idOf(tokens: readonly Extract<RowEvent, { type: 'token' }>[], row: Row): number | null {
  return tokens.find((event) => event.row === row)?.id ?? null;
}

/** The rows of a collated batch without their pads. */
function rowsOf(batch: Batch, options: GenerateOptions): RowRequest[] {
  const { inputIds, attentionMask, latentStart, latentSteps, images } = batch;
  return inputIds.map((ids, b) => {
    const kept = (from: number, to: number) => ids.slice(from, to).filter((_, i) => attentionMask[b]![from + i] === 1);
    return {
      promptIds: kept(0, latentStart),
      images: images[b]!,
      latentSteps,
      afterLatentIds: kept(latentStart + latentSteps, ids.length),
      options,
    };
  });
}

/** Runs generate() to its end. */
export function generateAll(model: VisionLanguageModel, batch: Batch, options: GenerateOptions): GenerateResult {
  const events = generate(model, batch, options);
  for (;;) {
    const { done, value } = events.next();
    if (done) return value;
  }
}
