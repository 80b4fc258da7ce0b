/** The answers to one chat request, as they are written: from the engine's events to the chunks and the response of OpenAI's API. */
import type { Engine, Ticket, TicketEvent } from './engine.ts';
import type { EngineQuestion } from './engine-messages.ts';
import type { HttpError } from './http-error.ts';
import type { Metrics } from './metrics.ts';
import type {
  ChatChunk,
  ChatResponse,
  FinishReason,
  IvtlrResponse,
  SeenPicture,
  SeenStep,
  TokenLogprob,
  Usage,
} from './protocol.ts';

type Choice = ChatResponse['choices'][number];
type ChunkChoice = ChatChunk['choices'][number];

/** What an answer has said so far. */
interface Said {
  ticket: Ticket | null;
  text: string;
  images: readonly SeenPicture[];
  steps: SeenStep[];
  logprobs: TokenLogprob[] | null;
  settings: IvtlrResponse['settings'];
  seconds: IvtlrResponse['seconds'];
  reason: FinishReason | null;
  promptTokens: number;
  tokens: number;
  latentSteps: number;
  firstText: number | null;
}

export interface ChatRunOptions {
  engine: Engine;
  metrics: Metrics;
  id: string;
  model: string;
  /** One for each answer; they differ in their seeds at most. */
  questions: readonly EngineQuestion[];
  ablation: string | null;
  /** Told of every piece of an answer. */
  chunk?(chunk: ChatChunk): void;
}

export class ChatRun {
  readonly #options: ChatRunOptions;
  readonly #created = Math.floor(Date.now() / 1000);
  readonly #started = performance.now();
  readonly #said: Said[];
  #left: number;
  #settle!: { resolve(): void; reject(error: HttpError): void };
  /** Once all answers are written. Rejects with the first error, and then nothing goes on. */
  readonly done: Promise<void>;

  constructor(options: ChatRunOptions) {
    this.#options = options;
    const { engine, questions } = options;
    this.#left = questions.length;
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.done.catch(() => {}); // awaited later
    this.#said = questions.map(() => ({
      ...{
        ticket: null,
        text: '',
        images: [],
        steps: [],
        logprobs: null,
        settings: undefined,
        seconds: undefined,
      },
      ...{ reason: null, promptTokens: 0, tokens: 0, latentSteps: 0, firstText: null },
    }));
    questions.forEach((question, index) => {
      this.#said[index]!.ticket = engine.ask(question, (event) => this.#take(index, event));
    });
  }

  /** Stops what is still being written. */
  cancel(): void {
    for (const { ticket, reason } of this.#said) if (reason === null) ticket?.cancel();
  }

  get response(): ChatResponse {
    const choices = this.#said.map((said, index): Choice => {
      const { text, images, steps, settings, seconds, reason, logprobs } = said;
      const seen: IvtlrResponse = {
        ...pictures(images),
        steps,
        ...(settings && { settings }),
        ...(seconds && { seconds }),
      };
      return {
        index,
        message: { role: 'assistant', content: text },
        finish_reason: reason!,
        logprobs: logprobs && { content: logprobs },
        ivtlr: seen,
      };
    });
    return { ...this.#head('chat.completion'), choices, usage: this.usage };
  }

  /** Prompts of several answers to one question count once. */
  get usage(): Usage {
    const sum = (of: (said: Said) => number) => this.#said.reduce((total, said) => total + of(said), 0);
    const prompt_tokens = this.#said[0]!.promptTokens;
    const completion_tokens = sum(({ tokens }) => tokens);
    return {
      prompt_tokens,
      completion_tokens,
      total_tokens: prompt_tokens + completion_tokens,
      completion_tokens_details: { latent_steps: sum(({ latentSteps }) => latentSteps) },
    };
  }

  /** The last chunk of a stream that was asked for its usage. */
  get usageChunk(): ChatChunk {
    return { ...this.#head('chat.completion.chunk'), choices: [], usage: this.usage };
  }

  #head<T extends string>(object: T) {
    const { id, model } = this.#options;
    return { id, object, created: this.#created, model };
  }

  #take(index: number, event: TicketEvent): void {
    const said = this.#said[index]!;
    switch (event.type) {
      case 'start': {
        const { ablation, questions } = this.#options;
        const { seed, pickFrom } = questions[index]!.options;
        said.images = event.images;
        said.promptTokens = event.promptTokens;
        said.settings = {
          ...event.settings,
          ablation,
          ...(pickFrom !== undefined && { pick_from: pickFrom + 1 }),
          ...(seed !== undefined && { seed }),
        };
        this.#chunk({ index, delta: { role: 'assistant', content: '' }, ivtlr: pictures(event.images) });
        return;
      }
      case 'step':
        said.steps.push(event.step);
        this.#chunk({ index, delta: {}, ivtlr: { steps: [event.step] } });
        return;
      case 'text':
        said.firstText ??= performance.now();
        said.text += event.text;
        if (event.logprobs) said.logprobs = [...(said.logprobs ?? []), ...event.logprobs];
        this.#chunk({
          ...{ index, delta: { content: event.text } },
          logprobs: event.logprobs && { content: event.logprobs },
        });
        return;
      case 'end':
        this.#end(index, event);
        return;
      case 'error':
        said.ticket?.cancel();
        this.cancel();
        this.#settle.reject(event.error);
    }
  }

  #end(index: number, event: Extract<TicketEvent, { type: 'end' }>): void {
    const said = this.#said[index]!;
    said.reason = event.reason;
    said.tokens = event.tokens;
    said.latentSteps = event.latentSteps;
    said.seconds = { queued: said.ticket?.queuedSeconds ?? 0, ...event.seconds };
    this.#count(said);
    const { settings, seconds, reason } = said;
    this.#chunk({ index, delta: {}, finish_reason: reason, ivtlr: { ...(settings && { settings }), seconds } });
    if (--this.#left === 0) this.#settle.resolve();
  }

  #count({ reason, promptTokens, tokens, latentSteps, firstText, seconds }: Said): void {
    const { metrics } = this.#options;
    const now = performance.now();
    metrics.finished.inc({ finished_reason: reason! });
    metrics.promptTokens.inc(promptTokens);
    metrics.generatedTokens.inc(tokens);
    metrics.latentSteps.inc(latentSteps);
    metrics.whole.observe((now - this.#started) / 1000);
    metrics.queueTime.observe(seconds!.queued);
    metrics.prefill.observe(seconds!.prefill);
    if (firstText === null) return;
    metrics.firstToken.observe((firstText - this.#started) / 1000);
    if (tokens > 1) metrics.perToken.observe((now - firstText) / 1000 / (tokens - 1));
  }

  #chunk(choice: Pick<ChunkChoice, 'index' | 'delta'> & Partial<ChunkChoice>): void {
    const { chunk } = this.#options;
    if (!chunk) return;
    const { index, delta, finish_reason = null, logprobs = null, ivtlr } = choice;
    chunk({
      ...this.#head('chat.completion.chunk'),
      choices: [{ index, delta, finish_reason, logprobs, ...(ivtlr && { ivtlr }) }],
    });
  }
}

function pictures(images: readonly SeenPicture[]): Pick<IvtlrResponse, 'image' | 'images'> {
  if (images.length === 0) return {};
  const { firstToken: _, ...image } = images[0]!;
  return { image, images };
}
