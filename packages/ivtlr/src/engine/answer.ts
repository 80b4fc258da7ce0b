/** One question about one image, from bytes to a streamed answer. The terminal, the demo and a server all ask through here. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { collate } from '../data/collate.ts';
import { renderInference, tokenizeSample } from '../data/render.ts';
import type { RawImage, Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { readJson } from '../files.ts';
import { generate } from '../latent/generate.ts';
import type { LatentOptions } from '../latent/options.ts';
import type { StepTrace } from '../latent/trace.ts';
import type { ProcessedImage } from '../models/types.ts';
import { latentOptions, type ModelFolder } from './model-folder.ts';

export interface Question {
  image: RawImage;
  question: string;
  /** Texts of the choices, without letters; empty for an open question. */
  choices: readonly string[];
}

export interface AnswerOptions {
  /** T; default: as the model was trained. */
  latents?: number | undefined;
  /** Default 512. */
  maxNewTokens?: number | undefined;
  /** Whose prompt wording to use; default: the task the model was trained on, else m3cot. */
  task?: string | undefined;
  /** Overrides of how the model was trained to reason, such as `patches` or an ablation's. */
  latent?: Partial<LatentOptions> | undefined;
}

export interface Answer {
  /** Without special tokens. */
  text: string;
  /** The generated ids, the final EOS included. */
  tokens: number[];
  /** Rows and columns of the image tokens that the traces count. */
  tokenGrid: readonly [rows: number, columns: number];
  /** The image's own size, and the part of it that the tokens cover. */
  source: ProcessedImage['source'];
  /** One per latent step. */
  trace: StepTrace[];
  /** Latent steps + generated tokens. */
  autoregressiveSteps: number;
  seconds: { image: number; prefill: number; latents: number; decode: number };
}

export type AnswerEvent =
  | { type: 'latent-step'; step: number; trace: StepTrace }
  | { type: 'text-delta'; text: string }
  | { type: 'end'; answer: Answer };

const DEFAULT_TASK = 'm3cot';

/**
 * Answers greedily. Between events the event loop runs, so that output is flushed and a caller can stop by leaving the loop.
 *
 * @throws UserError for an image that cannot be read or a question the tokenizer cannot take.
 */
export async function* answer(
  opened: ModelFolder,
  question: Question,
  options: AnswerOptions = {},
): AsyncGenerator<AnswerEvent, void> {
  if (question.question.trim() === '') throw new UserError('the question is empty');
  const latents = options.latents ?? opened.settings.latents;
  const started = performance.now();
  const processed = await opened.processImage(question.image);
  try {
    const render = opened.renderOptions(options.task ?? opened.settings.task ?? DEFAULT_TASK);
    const tokenized = await tokenizeSample(toSample(question), processed.tokens, 'infer', render);
    const batch = collate([renderInference(tokenized, latents)], [processed], opened.tokenizer.eosId);
    const image = (performance.now() - started) / 1000;
    const stream = opened.tokenizer.stream();
    let text = '';
    const events = generate(opened.model, batch, {
      ...latentOptions(opened.settings),
      ...options.latent,
      maxNewTokens: options.maxNewTokens ?? 512,
      eosIds: endOfAnswerIds(opened),
      trace: true,
    });
    try {
      for (;;) {
        const next = events.next();
        if (next.done) {
          const { tokens, traces, autoregressiveSteps, seconds } = next.value;
          const answer: Answer = {
            text,
            tokens: tokens[0]!,
            tokenGrid: processed.tokenGrid,
            source: processed.source,
            trace: traces[0]!,
            autoregressiveSteps: autoregressiveSteps[0]!,
            seconds: { image, ...seconds },
          };
          yield { type: 'end', answer };
          return;
        }
        const event = next.value;
        let piece = '';
        if (event.type === 'latent-step') yield { type: 'latent-step', step: event.step, trace: event.traces[0]! };
        else if (event.type === 'end') piece = stream.end();
        else if (event.tokens[0] !== null) piece = stream.push(event.tokens[0]!);
        text += piece;
        if (piece !== '') yield { type: 'text-delta', text: piece };
        await new Promise((resolve) => setImmediate(resolve));
      }
    } finally {
      events.return(undefined as never); // frees the cache when the caller stops early
    }
  } finally {
    processed.pixels.dispose();
  }
}

/** The tokenizer's end-of-text and those of generation_config.json: chat models end a turn with another token than a text. */
function endOfAnswerIds(opened: ModelFolder): number[] {
  const path = join(opened.folder, 'generation_config.json');
  const stored = existsSync(path) ? (readJson(path, 'generation config') as { eos_token_id?: unknown }) : {};
  const ids = [stored.eos_token_id].flat().filter((id): id is number => typeof id === 'number');
  return [...new Set([opened.tokenizer.eosId, ...ids])];
}

function toSample({ image, question, choices }: Question): Sample {
  return { id: 'question', image, question, choices: [...choices], rationale: '', answer: '', meta: {} };
}
