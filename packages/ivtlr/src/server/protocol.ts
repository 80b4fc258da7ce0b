/**
 * What clients, the HTTP server and the process that owns the model say to each other, as plain data. The browser app imports these types too, so
 * this file imports nothing but a file that imports nothing. Chat requests and responses follow OpenAI's API; what is ours stands in the field `ivtlr`, which other clients ignore.
 */

import type { TokenLayout } from '../vision/token-views.ts';

/** Names of what can be taken away from the latent steps; see the list of `ivtlr eval --ablation`. */
export type AblationName = string;

/** Request field `ivtlr`: every part is optional, and then as the model was trained. */
export interface IvtlrRequest {
  /** T: latent steps before the written answer. */
  latents?: number;
  /** K: image tokens picked at each latent step. */
  patches?: number;
  ablation?: AblationName;
  /** Another picture, which ablations that end in `-swapped` need: the same question is asked about it, and its latent steps are taken. */
  other_image?: { url: string };
  positions?: 'sequential' | 'mrope';
  /** Words the prompt as this task does. */
  task?: string;
  /** Texts of the choices, without letters: the task words question and choices. */
  choices?: readonly string[];
  /** `none`: no latent steps in the response; `picks`: indices; `full`: attention on every image token as well, of written tokens too. Default picks. */
  trace?: 'none' | 'picks' | 'full';
  /** Per latent step, image tokens (counted through all pictures, row-major over each token grid) that are picked in any case, or never. */
  force?: readonly (readonly number[])[];
  forbid?: readonly (readonly number[])[];
  /** The only picture that latent steps pick from, counted from 1; default: all. */
  pick_from?: number;
}

/** The picture as the model sees it. */
export interface SeenImage extends TokenLayout {
  /** Size of the picture that was sent, in pixels, and the part of it that the tokens cover. */
  width: number;
  height: number;
  crop: { x: number; y: number; width: number; height: number };
}

/** One of a question's pictures. Tokens are counted through all of them. */
export interface SeenPicture extends SeenImage {
  /** Index of its first token. */
  firstToken: number;
}

/** One latent step, or with `full` one written token. */
export interface SeenStep {
  /** From 0. */
  step: number;
  kind: 'latent' | 'token';
  /** Image tokens in the order they were inserted; of a written token those with the most attention. */
  picked: readonly number[];
  /** Their attention, mean over layers and heads. Null with `picks`. */
  pickedScores: readonly number[] | null;
  /** Attention on every image token. Null with `picks`. */
  scores: readonly number[] | null;
  /** Attention on picked tokens over attention on text; 1 / entropy of the attention within the image. Null with `picks`. */
  attentionRatio: number | null;
  focus: number | null;
  /** Since the step before, as the server measured it. */
  seconds: number;
}

/** Response field `ivtlr`; in a stream each chunk has what is new in it. */
export interface IvtlrResponse {
  /** The first picture, and all of them; absent for text alone. */
  image?: SeenImage;
  images?: readonly SeenPicture[];
  steps?: readonly SeenStep[];
  /** In the last chunk, and in a response that is no stream. */
  settings?: {
    latents: number;
    patches: number;
    task: string;
    ablation: AblationName | null;
    /** The request's, where it had one. */
    pick_from?: number;
    /** Of drawn tokens and random patches: the request's, or the one drawn for it. Sent as `seed` it gives the same answer again. */
    seed?: number;
  };
  seconds?: { queued: number; image: number; prefill: number; latents: number; decode: number };
}

export type ContentPart = { type: 'text'; text: string } | { type: 'image_url'; image_url: { url: string } };

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string | readonly ContentPart[];
}

export interface ChatRequest {
  model?: string;
  messages: readonly ChatMessage[];
  stream?: boolean;
  stream_options?: { include_usage?: boolean };
  max_tokens?: number;
  max_completion_tokens?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  seed?: number;
  stop?: string | readonly string[];
  n?: number;
  logprobs?: boolean;
  top_logprobs?: number;
  user?: string;
  ivtlr?: IvtlrRequest;
}

export interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: readonly number[] | null;
  top_logprobs: readonly { token: string; logprob: number; bytes: readonly number[] | null }[];
}

export type FinishReason = 'stop' | 'length';

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** Latent steps are no completion tokens. */
  completion_tokens_details: { latent_steps: number };
}

export interface ChatResponse {
  id: string;
  object: 'chat.completion';
  created: number;
  model: string;
  choices: readonly {
    index: number;
    message: { role: 'assistant'; content: string };
    finish_reason: FinishReason;
    logprobs: { content: readonly TokenLogprob[] } | null;
    ivtlr?: IvtlrResponse;
  }[];
  usage: Usage;
}

/** One `data:` line of a stream; after the last comes `data: [DONE]`. */
export interface ChatChunk {
  id: string;
  object: 'chat.completion.chunk';
  created: number;
  model: string;
  choices: readonly {
    index: number;
    delta: { role?: 'assistant'; content?: string };
    finish_reason: FinishReason | null;
    logprobs: { content: readonly TokenLogprob[] } | null;
    ivtlr?: IvtlrResponse;
  }[];
  usage?: Usage | null;
}

/** Body of every answer that is no success, in a stream the last `data:` line before the connection closes. */
export interface ErrorBody {
  error: {
    message: string;
    /** `invalid_request_error`, `authentication_error`, `rate_limit_error`, `overloaded_error`, `engine_error`, `timeout_error`. */
    type: string;
    /** The field that is wrong, such as `messages.0.content`; null where it is none. */
    param: string | null;
    code: string | null;
  };
}

/** `GET /v1/models`; `ivtlr` says what the app needs to know of the model. */
export interface ModelList {
  object: 'list';
  data: readonly {
    id: string;
    object: 'model';
    created: number;
    owned_by: string;
    ivtlr: {
      family: string;
      task: string | null;
      tasks: readonly string[];
      latents: number;
      patches: number;
      /** Whether a question has exactly one picture; else none, one or several. */
      oneImage: boolean;
      /** `otherImage`: it needs `other_image`. */
      ablations: readonly { name: AblationName; title: string; otherImage: boolean }[];
      maxTokens: number;
    };
  }[];
}

/** `GET /api/puzzle?seed=N`: a fresh question of the model's task, where the task makes its own. `image` is a data URL. */
export interface Puzzle {
  image: string;
  question: string;
  choices: readonly string[];
  answer: string;
}

/** `GET /api/runs`: the training runs in the folder given by `--runs`. */
export interface RunList {
  runs: readonly RunSummary[];
}

export interface RunSummary {
  name: string;
  /** Of the run's recipe, and empty in a folder that has none (`run.json`, or a checkpoint). */
  task: string;
  /** The folder or hub name that the training started from; `fresh FAMILY` for random weights. */
  model: string;
  /** `ivt-lr`, `coconut`, `cot` or `no-cot`. */
  mode: string;
  steps: number;
  /** Null in a folder without `run.json` or a checkpoint. */
  totalSteps: number | null;
  /** Whether a process holds the run's lock. */
  running: boolean;
  /** Milliseconds since 1970 of the last line of metrics. */
  updated: number;
}

/** `GET /api/runs/NAME?after=LINE`: the lines of metrics.jsonl from there on, and the number to ask with next time. */
export interface RunMetrics {
  summary: RunSummary;
  lines: readonly Record<string, unknown>[];
  next: number;
  checkpoints: readonly string[];
  /** The .json files in the run's folder that `ivtlr ablate --json > RUN/ANY.json` wrote, by name. */
  ablations: readonly AblationTable[];
}

/** Does the latent step do anything? One model asked whole and with parts taken away, on the same samples. */
export interface AblationTable {
  /** Name of the file in the run's folder. */
  file: string;
  /** The model that was asked, as it was given to the command. */
  model: string;
  task: string;
  split: string;
  trainedLatents: number;
  /** The first row is the full model. */
  rows: readonly AblationTableRow[];
}

export interface AblationTableRow {
  /** Such as `full`, `no-latent-text` or `latents-2`. */
  key: string;
  title: string;
  latents: number;
  /** Accuracies are shares from 0 to 1, `interval95` is that of `accuracy`. Null where the model cannot take the change; `problem` says why. */
  result: {
    accuracy: number;
    accuracyOfficial: number;
    interval95: readonly [number, number];
    samples: number;
    secondsPerSample: number;
  } | null;
  problem: string | null;
  /** Against the full model: difference of accuracies, answers made wrong and right, share of answers whose text changed. Null for the full model. */
  versus: {
    difference: number;
    interval95: readonly [number, number];
    lost: number;
    gained: number;
    textChanged: number;
  } | null;
}
