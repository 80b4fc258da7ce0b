/** What an answer pool and its worker processes say to each other. Everything is plain data, sent with Node's `advanced` serialization. */

import type { AnswerNeeds } from '../engine/answer-memory.ts';
import type { Answer, AskEvent, AskOptions, Question } from '../engine/ask.ts';
import type { OpenModelOptions, ReasoningSettings } from '../engine/loaded-model.ts';

/** The model that every worker opens. */
export interface WorkerModel {
  folder: string;
  /** `auto`, `cpu`, `cuda` or `cuda:N`, and what the user calls this setting. With `auto` and `cuda` each worker takes the next GPU. */
  device: string;
  deviceSetting: string;
  dtype?: OpenModelOptions['dtype'] | undefined;
  settings: Partial<ReasoningSettings>;
  mergeAdapters?: OpenModelOptions['mergeAdapters'];
  graphs?: OpenModelOptions['graphs'];
}

/** How the questions of one run are asked; seeds come with the questions. */
export type WorkerAskOptions = Omit<AskOptions, 'of' | 'seed' | 'imageKeys' | 'processImage' | 'textDeltas'> & {
  /** Threads that prepare the images of files ahead. */
  imageThreads: number;
};

/** As its parent is told. */
export type PoolAskOptions<Q extends Question> = WorkerAskOptions & { seed?: AskOptions<Q>['seed'] };

/** `index` is the worker's place among all, from 0. */
export type OpenWorker = { type: 'open'; model: WorkerModel; index: number; threads: number };

/** What was asked before is forgotten. */
export type WorkerRun = { type: 'run'; run: number; options: WorkerAskOptions };

export type ToWorker =
  | OpenWorker
  | { type: 'room'; needs: AnswerNeeds }
  | WorkerRun
  /** Questions that begin together. */
  | { type: 'ask'; group: number; questions: readonly (Question & { seed?: number })[] };

/** What a worker's model is, beyond what its folder says. */
export interface OpenedInWorker {
  /** Of an adapter the base's. */
  folder: string;
  settings: ReasoningSettings;
  maxPositions: number;
  device: string;
  /** What `auto` has become, in one line; null where a device was named. */
  deviceNote: string | null;
}

/** Where a worker's messages from its parent come in: the channel of Node's `process.send`. */
export const CHANNEL_FD = 3;

/** Where a worker may write its messages as lines of JSON; see `tellParent`. */
export const MESSAGES_FD = 4;

export interface SentError {
  message: string;
  stack: string | undefined;
  /** Whether it was a UserError. */
  user: boolean;
}

export type FromWorker =
  | { type: 'opened'; opened: OpenedInWorker }
  | { type: 'room' }
  | { type: 'end'; run: number; group: number; at: number; answer: Answer }
  | { type: 'error'; run: number; group: number; at: number; error: SentError }
  /** The model cannot be opened, or something went wrong that is no question's fault. */
  | { type: 'failed'; error: SentError };

/** The events that a pool gives. */
export type PoolEvent<Q extends Question> = Extract<AskEvent<Q>, { type: 'end' | 'error' }>;
