/** What is asked, how, and what comes of it. */
import type { RawImage } from '../data/sample.ts';
import type { UserError } from '../errors.ts';
import type { TokenLogprobs } from '../latent/next-token.ts';
import type { LastStepOptions, LatentOptions } from '../latent/options.ts';
import type { LatentState } from '../latent/row.ts';
import type { Sampling } from '../latent/sampling.ts';
import type { StepTrace } from '../latent/trace.ts';
import type { ProcessedImage } from '../models/types.ts';
import type { ChatMessage } from '../text/chat-template.ts';
import type { TokenLayout } from '../vision/token-views.ts';

export interface Question {
  /** In the order in which the prompt shows them; empty for text alone. */
  images: readonly RawImage[];
  question: string;
  /** Texts of the choices, without letters; empty for an open question. */
  choices: readonly string[];
  /** A conversation in place of question and choices; the images stand where its content of kind `image` does. */
  messages?: readonly ChatMessage[] | null | undefined;
}

/** How a question is answered. */
export interface QuestionAskOptions {
  /** T; default: as the model was trained. */
  latentSteps?: number | undefined;
  /** Longest answer; default 512. */
  maxNewTokens?: number | undefined;
  /** Whose prompt wording to use; default: the task the model was trained on, else m3cot. */
  task?: string | undefined;
  /** Overrides of how the model was trained to reason, such as `patches` or an ablation's. */
  latent?: Partial<LatentOptions> | undefined;
  /** What the last latent step does otherwise. */
  lastStep?: LastStepOptions | undefined;
  /** Image tokens by latent step that it picks before all others, and that it does not pick: see RowOptions. */
  forcePatches?: readonly (readonly number[])[] | undefined;
  forbidPatches?: readonly (readonly number[])[] | undefined;
  /** Which image latent steps pick from, counted from 0; default: all. */
  pickFrom?: number | undefined;
  /** How tokens are chosen; default: greedily. */
  sampling?: Partial<Sampling> | undefined;
  /** Seed of random patches and drawn tokens; default: torch's own generator. */
  seed?: number | undefined;
  /** Texts that end the answer, which then ends before the first of them. */
  stop?: readonly string[] | undefined;
  /** Say of every written token how likely it was, and so many of the likeliest ones (0 for none). */
  logprobs?: number | undefined;
  /** Say of every latent step what it looked at. */
  trace?: boolean | undefined;
  /** The same for every written token. */
  traceText?: boolean | undefined;
  /** Say of every latent step what it carries on. */
  latentStates?: boolean | undefined;
}

/** What a question is asked with, unless `of` says otherwise for it. */
export interface AskOptions<Q extends Question = Question> extends Omit<QuestionAskOptions, 'seed'> {
  /** Questions answered together; default 1. Answers do not depend on it (in float32; 16-bit dtypes round differently). */
  rows?: number | undefined;
  /**
   * Text put before the first generated token: part of the answer, no step. The answer then ends with its first line, since a model that learned
   * to reason would go on reasoning after it. Only without latent steps.
   */
  answerStart?: string | undefined;
  /** What one question wants otherwise than these options say. */
  of?: ((question: Q) => QuestionAskOptions) | undefined;
  /** The seed of a question for which `of` gives none. */
  seed?: ((question: Q) => number | undefined) | undefined;
  /** Default: decoded here, when the question's turn comes. */
  processImage?: ((image: RawImage) => Promise<ProcessedImage>) | undefined;
  /** Give `text-delta` events; default true. */
  textDeltas?: boolean | undefined;
  /** Names a question's pictures; questions that begin alike then share what can be shared, within `keptImageBytes`. */
  imageKeys?: ((question: Q) => readonly string[] | undefined) | undefined;
  /** Bytes of picture embeddings that are kept for later questions about the same picture; default 0. */
  keptImageBytes?: number | undefined;
  /** Prompts longer than this run in pieces between the steps of the other questions. Default: in one piece. */
  pieceTokens?: number | undefined;
}

/** An image as the model saw it. Picks count the tokens of all of a question's images, those of the second behind those of the first. */
export interface SeenImage extends TokenLayout {
  /** Its own size, and the part of it that the tokens cover. */
  source: ProcessedImage['source'];
}

export interface Answer {
  promptIds: readonly number[];
  /** Without special tokens, and without a stop string and what came with it. */
  text: string;
  /** `stop`: at an end-of-text token or a stop string. `length`: at the longest answer or the model's last position. */
  finishReason: 'stop' | 'length';
  /** The stop string at which it ended; a line feed where `answerStart` ends the answer with its first line. */
  stopString: string | null;
  /** The generated ids, the final EOS and those of a stop string included. */
  tokens: number[];
  /** One per token, with `logprobs`. */
  logprobs: TokenLogprobs[];
  images: readonly SeenImage[];
  /** Per latent step: image-token indices in the order they were inserted. */
  picked: number[][];
  /** One per latent step, with `trace`. */
  trace: StepTrace[];
  /** One per written token, with `traceText`. */
  textTrace: StepTrace[];
  /** One per latent step, with `latentStates`. */
  states: LatentState[];
  /** Latent steps + generated tokens. */
  autoregressiveSteps: number;
  /** This question's share, where several were answered together. */
  seconds: { image: number; prefill: number; latents: number; decode: number };
}

export type AskEvent<Q extends Question = Question> =
  | { type: 'latent-step'; question: Q; step: number; picked: number[]; trace: StepTrace | null }
  /** Text that is certain to be part of the answer: the beginning of what may become a stop string is held back. All of them joined are the answer. */
  | { type: 'text-delta'; question: Q; text: string }
  /** With `traceText`, of every written token; `step` counts from 0. */
  | { type: 'token-trace'; question: Q; step: number; trace: StepTrace }
  /** Of every token, before its text, where `logprobs` are asked for. */
  | { type: 'token'; question: Q; id: number; logprobs: TokenLogprobs }
  | { type: 'end'; question: Q; answer: Answer }
  /** For an image that cannot be read, a question the tokenizer or the model cannot take, a latent step that cannot be made. */
  | { type: 'error'; question: Q; error: UserError };
