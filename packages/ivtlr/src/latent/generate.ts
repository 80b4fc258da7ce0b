/**
 * Latent reasoning at inference: prefill, T latent steps over the cache, then greedy decoding. Batched; every row is as it would be alone.
 * Written as a generator, so that a caller can stream events, stop early, and let the event loop run in between.
 */
import { inferenceMode, keep, scope, type Tensor } from '@ivtlr/torch';
import type { Batch } from '../data/collate.ts';
import type { VisionLanguageModel } from '../models/types.ts';
import type { LatentOptions } from './options.ts';
import { Rollout } from './rollout.ts';
import { embedPrompt, Sequence, toIds } from './sequence.ts';
import { type StepTrace, Tracer } from './trace.ts';

export interface GenerateOptions extends LatentOptions {
  maxNewTokens: number;
  /** Tokens that end an answer. */
  eosIds: readonly number[];
  /** Trace every written token too; it costs a row of attention probabilities a layer and token. */
  traceText?: boolean;
}

export type GenerateEvent =
  | { type: 'latent-step'; step: number; rows: StepTrace[] }
  /** `token` is null once a row has ended. */
  | { type: 'tokens'; tokens: (number | null)[] }
  | { type: 'end' };

export interface GenerateResult {
  /** Per row: generated tokens, the final EOS included. */
  tokens: number[][];
  /** Per row: latent steps + generated tokens. */
  autoregressiveSteps: number[];
  /** Per row and latent step. */
  traces: StepTrace[][];
  /** Per row and generated token; empty without `traceText`. */
  textTraces: StepTrace[][];
  /** (B, V) as numbers: the logits the first token was chosen from. */
  firstLogits: number[][];
  /** Seconds: prompt and image up to the first hidden state; latent steps after it; decoding. */
  seconds: { prefill: number; latents: number; decode: number };
}

/** Answers a batch of prompts whose `latents` slots say how many latent steps to take; what stands after the slots is read before the answer. */
export function* generate(
  model: VisionLanguageModel,
  batch: Batch,
  options: GenerateOptions,
): Generator<GenerateEvent, GenerateResult> {
  const B = batch.inputIds.length;
  const eos = new Set(options.eosIds);
  const tokens: number[][] = batch.inputIds.map(() => []);
  const traces: StepTrace[][] = batch.inputIds.map(() => []);
  const textTraces: StepTrace[][] = batch.inputIds.map(() => []);
  const given = givenAfterLatents(batch);
  const capacity = batch.latentStart + batch.latents * (options.patches + 1) + given[0]!.length + options.maxNewTokens;
  const owned: { dispose(): void }[] = [];
  // What a run returns is this function's own: kept out of the scope, if any, in which the caller asks for the next event.
  const run = <T>(body: () => T): T => inferenceMode(() => scope(() => keep(body())));
  const started = performance.now();
  const elapsed = () => (performance.now() - started) / 1000;
  try {
    const prompt = run(() => embedPrompt(model, batch, options.positions));
    owned.push(prompt.rows, prompt.positions, ...[prompt.valid, prompt.images].filter((t): t is Tensor => t !== null));
    const cache = inferenceMode(() => model.newCache(B, capacity));
    owned.push(cache);
    const sequence = new Sequence(model, prompt, cache, options.hideImageFromLatents);
    const rollout = new Rollout(sequence, options, { detach: false, tap: 'value' });
    const tracer = new Tracer(prompt);
    // What the last latent step chose; pushed inside the scope of the next run, so that it alone outlives its own scope.
    let chosen: { inserted: Tensor; mask: number[][] | null; rows: StepTrace[] } | null = null;
    const insert = () => {
      if (!chosen) return;
      rollout.insert(chosen);
      chosen = null;
    };
    let prefill = 0;
    for (let step = 0; step < batch.latents; step++) {
      chosen = run(() => {
        insert();
        const made = rollout.step();
        return { inserted: made.inserted, mask: made.mask, rows: tracer.trace(made) };
      });
      owned.push(chosen.inserted); // freed at the end, also when the caller stops after this step
      if (step === 0) prefill = elapsed();
      chosen.rows.forEach((trace, b) => {
        traces[b]!.push(trace);
      });
      yield { type: 'latent-step', step, rows: chosen.rows };
    }
    const latents = elapsed();
    let firstLogits: number[][] = [];
    const ended = new Array<boolean>(B).fill(false);
    let last: number[] = [];
    let looked: StepTrace[] = [];
    for (let n = 0; n < options.maxNewTokens && !ended.every(Boolean); n++) {
      last = run(() => {
        if (n === 0) insert();
        const next = n === 0 ? given : last.map((id) => [id]);
        if (next[0]!.length > 0) sequence.push(model.embed(toIds(next, model.device)));
        const { hidden, scores } = sequence.run(options.traceText ? 'value' : 'off');
        if (n === 0) tracer.addText(given[0]!.length);
        looked = options.traceText ? tracer.traceText(scores!, options.patches) : [];
        const logits = model.logits(hidden.select(1, hidden.shape[1]! - 1));
        if (n === 0) firstLogits = logits.to('float32').tolist() as number[][];
        return logits.argmax(-1).toNumbers();
      });
      if (n === 0 && batch.latents === 0) prefill = elapsed();
      const emitted = last.map((id, b) => {
        if (ended[b]) return null;
        tokens[b]!.push(id);
        if (looked[b]) textTraces[b]!.push(looked[b]);
        if (eos.has(id)) ended[b] = true;
        return id;
      });
      yield { type: 'tokens', tokens: emitted };
    }
    yield { type: 'end' };
    return {
      tokens,
      autoregressiveSteps: tokens.map((row) => row.length + batch.latents),
      traces,
      textTraces,
      firstLogits,
      seconds: { prefill, latents: Math.max(0, latents - prefill), decode: elapsed() - Math.max(latents, prefill) },
    };
  } finally {
    for (const item of owned) item.dispose();
  }
}

/** Columns after the latent slots: read like written text before the first token is chosen. */
function givenAfterLatents({ inputIds, attentionMask, latentStart, latents }: Batch): number[][] {
  const first = latentStart + latents;
  if (attentionMask.some((row) => row.slice(first).includes(0)))
    throw new RangeError('rows to be answered need equally many tokens after their latent slots');
  return inputIds.map((row) => row.slice(first));
}

/** Runs generate() to its end. */
export function generateAll(model: VisionLanguageModel, batch: Batch, options: GenerateOptions): GenerateResult {
  const events = generate(model, batch, options);
  for (;;) {
    const { done, value } = events.next();
    if (done) return value;
  }
}
