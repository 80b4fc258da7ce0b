/**
 * What the server and the process that owns the model say to each other: plain data. To the process it goes with Node's `advanced` serialization,
 * since pictures are bytes, and comes back as lines of JSON.
 */
import type { QuestionAskOptions } from '../engine/question.ts';
import type { SentError, WorkerModel } from '../pool/worker-messages.ts';
import type { ChatMessage } from '../text/chat-template.ts';
import type { FinishReason, SeenPicture, SeenStep, TokenLogprob } from './protocol.ts';

/** Bounds within which the process works. */
export interface EngineLimits {
  /** Questions answered together. */
  rows: number;
  /** Prompt tokens of one question that run between two steps of the others. */
  pieceTokens: number;
  /** Bytes of keys and values; null: half of what is free once the model is loaded. */
  cacheBytes: number | null;
  /** Pictures with more pixels are refused before they are decoded. */
  maxPixels: number;
}

/** How one question is asked. What is absent is as the model was trained. */
export interface QuestionOptions extends Omit<QuestionAskOptions, 'trace' | 'traceText'> {
  maxNewTokens: number;
  /** What is told of the latent steps, and with `full` of written tokens too. */
  trace: 'none' | 'picks' | 'full';
}

export interface SentPicture {
  bytes: Uint8Array;
  /** The field of the request that has it; every error about it says so. */
  name: string;
}

export interface EngineQuestion {
  pictures: readonly SentPicture[];
  /** Asked about in place of the picture, beside the question, for swapped latent steps to be taken from it; null where nothing is swapped. */
  other: SentPicture | null;
  /** Put into the task's words. */
  question: string;
  choices: readonly string[];
  /** A conversation in place of question and choices; its pictures stand where the content of kind `image` does. */
  messages: readonly ChatMessage[] | null;
  /** Whether steps and text are told as they happen. Else, but for the first text, they come with the end: every message takes time from the passes. */
  stream: boolean;
  options: QuestionOptions;
}

/** Of its pictures. */
export function bytesOf({ pictures, other }: Pick<EngineQuestion, 'pictures' | 'other'>): number {
  return pictures.reduce((sum, { bytes }) => sum + bytes.length, other?.bytes.length ?? 0);
}

/** What the server needs to know of the model. */
export interface EngineInfo {
  device: string;
  deviceNote: string | null;
  family: string;
  dtype: string;
  task: string | null;
  profile: string;
  latents: number;
  patches: number;
  /** Positions that a prompt, its latent steps and its answer may have together. */
  maxPositions: number;
  /** A text of more characters has more tokens than there are positions, whatever they are; null where nothing can be said. */
  maxCharacters: number | null;
  /** Whether prompts go through a chat template, so that a conversation can be one. */
  chat: boolean;
  /** Whether a question has exactly one picture; else any number, or none. */
  oneImage: boolean;
  cacheBytes: number;
}

export interface EngineStats {
  running: number;
  /** Taken by the process and not begun. */
  waiting: number;
  cacheBytes: number;
  cacheUsedBytes: number;
  residentBytes: number;
  liveTensors: number;
  passes: number;
}

export type EngineEvent =
  /** The question has joined the batch. */
  | {
      type: 'start';
      images: SeenPicture[];
      promptTokens: number;
      /** Seconds that its pictures have taken, which it did not wait. */
      spent: number;
      settings: { latents: number; patches: number; task: string };
    }
  | { type: 'step'; step: SeenStep }
  | { type: 'text'; text: string; logprobs: readonly TokenLogprob[] | null }
  | {
      type: 'end';
      text: string;
      reason: FinishReason;
      tokens: number;
      latentSteps: number;
      seconds: { image: number; prefill: number; latents: number; decode: number };
    }
  /** The question's own fault where `user` is set. */
  | { type: 'error'; message: string; user: boolean };

export type ToEngine =
  | { type: 'open'; model: WorkerModel; index: number; threads: number; limits: EngineLimits }
  /** An `ask` follows, which may be large and then is read a part at a time. */
  | { type: 'coming' }
  | { type: 'ask'; id: number; question: EngineQuestion }
  | { type: 'cancel'; id: number }
  | { type: 'ping' };

export type FromEngine =
  | { type: 'opened'; opened: EngineInfo }
  | { type: 'failed'; error: SentError }
  | { type: 'pong'; stats: EngineStats }
  /** All events of a pass. With questions that only went on, the statistics are as they were but for the passes. */
  | {
      type: 'events';
      events: readonly { id: number; event: EngineEvent }[];
      stats: EngineStats | Pick<EngineStats, 'passes'>;
    };
