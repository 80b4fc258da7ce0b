/**
 * Questions about images, from bytes to answers: the terminal, evaluation, validation and the demo all ask through here. Questions come as a
 * stream; up to `rows` of them are answered together, and one that has ended makes room for the next.
 */
import { tokenizeConversation } from '../data/conversation.ts';
import { tokenizeSample } from '../data/render.ts';
import type { RawImage, Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import type { LatentOptions } from '../latent/options.ts';
import { positionsOf, type Row, type RowRequest } from '../latent/row.ts';
import { RowBatch, type RowEvent } from '../latent/row-batch.ts';
import type { StepTrace } from '../latent/trace.ts';
import type { ProcessedImage } from '../models/types.ts';
import type { ChatMessage } from '../text/chat-template.ts';
import { endOfAnswerIds } from './end-of-answer.ts';
import { type LoadedModel, latentOptions } from './loaded-model.ts';

export interface Question {
  image: RawImage;
  question: string;
  /** Texts of the choices, without letters; empty for an open question. */
  choices: readonly string[];
  /** A conversation in place of question and choices; the image stands where its content of kind `image` does. */
  messages?: readonly ChatMessage[] | null | undefined;
}

/** How one question is asked, where it differs from the others. */
export type QuestionAskOptions = Pick<
  AskOptions,
  'latentSteps' | 'maxNewTokens' | 'task' | 'latent' | 'trace' | 'traceText'
>;

export interface AskOptions<Q extends Question = Question> {
  /** Questions answered together; default 1. Answers do not depend on it (in float32; 16-bit dtypes round differently). */
  rows?: number | undefined;
  /** T; default: as the model was trained. */
  latentSteps?: number | undefined;
  /** Default 512. */
  maxNewTokens?: number | undefined;
  /** Whose prompt wording to use; default: the task the model was trained on, else m3cot. */
  task?: string | undefined;
  /** Overrides of how the model was trained to reason, such as `patches` or an ablation's. */
  latent?: Partial<LatentOptions> | undefined;
  /**
   * Text put before the first generated token: part of the answer, no step. The answer then ends with its first line, since a model that learned
   * to reason would go on reasoning after it. Only without latent steps.
   */
  answerStart?: string | undefined;
  /** Say of every latent step what it looked at. */
  trace?: boolean | undefined;
  /** The same for every written token. */
  traceText?: boolean | undefined;
  /** Seed of a question's random patches; default: torch's own generator. */
  seed?: ((question: Q) => number | undefined) | undefined;
  /** Default: decoded here, when the question's turn comes. */
  processImage?: ((image: RawImage) => Promise<ProcessedImage>) | undefined;
  /** Give `text-delta` events; default true. */
  textDeltas?: boolean | undefined;
  /** What one question wants otherwise than these options say. */
  of?: ((question: Q) => QuestionAskOptions) | undefined;
  /** Names a question's picture; questions of the same one then share what can be shared, within `keptImageBytes`. */
  imageKey?: ((question: Q) => string | undefined) | undefined;
  /** Bytes of picture embeddings that are kept for later questions about the same picture; default 0. */
  keptImageBytes?: number | undefined;
  /** Prompts longer than this run in pieces between the steps of the other questions. Default: in one piece. */
  pieceTokens?: number | undefined;
}

export interface Answer {
  promptIds: readonly number[];
  /** Without special tokens. */
  text: string;
  /** The generated ids, the final EOS included. */
  tokens: number[];
  /** Rows and columns of the image tokens that picks count. */
  tokenGrid: readonly [rows: number, columns: number];
  /** The image's own size, and the part of it that the tokens cover. */
  source: ProcessedImage['source'];
  /** Per latent step: image-token indices in the order they were inserted. */
  picked: number[][];
  /** One per latent step, with `trace`. */
  trace: StepTrace[];
  /** One per written token, with `traceText`. */
  textTrace: StepTrace[];
  /** Latent steps + generated tokens. */
  autoregressiveSteps: number;
  /** At an end-of-text token (or the end of the line, with `answerStart`), or at the most tokens there may be. */
  reason: 'eos' | 'length';
  /** This question's share, where several were answered together. */
  seconds: { image: number; prefill: number; latents: number; decode: number };
}

export type AskEvent<Q extends Question = Question> =
  | { type: 'latent-step'; question: Q; step: number; picked: number[]; trace: StepTrace | null }
  | { type: 'text-delta'; question: Q; text: string }
  /** With `traceText`, of every written token; `step` counts from 0. */
  | { type: 'token-trace'; question: Q; step: number; trace: StepTrace }
  | { type: 'end'; question: Q; answer: Answer }
  /** For an image that cannot be read, a question the tokenizer or the model cannot take, a latent step that cannot be made. */
  | { type: 'error'; question: Q; error: UserError };

const DEFAULT_TASK = 'm3cot';

/**
 * Answers greedily. Between passes the event loop runs, so that output is flushed and a caller can stop by leaving the loop.
 * @param groups questions that begin together, as swapped latent steps need it; usually one each. A group waits until there is room for all of it
 */
export async function* ask<Q extends Question>(
  opened: LoadedModel,
  groups: AsyncIterable<readonly Q[]> | Iterable<readonly Q[]>,
  options: AskOptions<Q> = {},
): AsyncGenerator<AskEvent<Q>, void> {
  const asker = await Asker.open(opened, options);
  const stream = iterate(groups);
  try {
    let next = await stream.next();
    for (;;) {
      while (!next.done && asker.hasRoomFor(next.value.length)) {
        yield* await asker.begin(next.value);
        next = await stream.next();
      }
      if (asker.size === 0 && next.done) return;
      yield* asker.step();
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    asker.dispose();
    await stream.return?.(undefined as never);
  }
}

/** One question. @throws UserError where `ask` gives an error event */
export async function* answer<Q extends Question>(
  opened: LoadedModel,
  question: Q,
  options: AskOptions<Q> = {},
): AsyncGenerator<Exclude<AskEvent<Q>, { type: 'error' }>, void> {
  for await (const event of ask(opened, [[question]], options)) {
    if (event.type === 'error') throw event.error;
    yield event;
  }
}

/** What is known of a question that is being answered. */
interface Open<Q> {
  question: Q;
  tokenGrid: Answer['tokenGrid'];
  source: Answer['source'];
  imageSeconds: number;
  stream: { push(id: number): string; end(): string } | null;
}

/** A question whose image is read and whose prompt is tokens. */
export interface PreparedQuestion<Q extends Question> {
  readonly question: Q;
  readonly request: RowRequest;
  readonly image: ProcessedImage;
  /** Reading the image and making tokens. */
  readonly seconds: number;
  /** Positions that it fills at most. */
  readonly positions: number;
}

/** Questions under way: what takes them in and makes the passes. `ask` is a loop around it, and so is a worker process. */
export class Asker<Q extends Question> {
  readonly #opened: LoadedModel;
  readonly #options: AskOptions<Q>;
  readonly #batch: RowBatch;
  readonly #open = new Map<Row, Open<Q>>();
  readonly #eosIds: readonly number[];
  /** Tokens an answer starts with. */
  readonly #start: readonly number[];

  static async open<Q extends Question>(opened: LoadedModel, options: AskOptions<Q>): Promise<Asker<Q>> {
    const { answerStart, latentSteps = opened.settings.latents } = options;
    if (answerStart === undefined) return new Asker(opened, options, []);
    if (latentSteps > 0) throw new RangeError('an answer can be started only without latent steps');
    const [start] = await opened.tokenizer.encodeBatch([answerStart]);
    return new Asker(opened, options, start!);
  }

  private constructor(opened: LoadedModel, options: AskOptions<Q>, start: readonly number[]) {
    this.#opened = opened;
    this.#options = options;
    this.#start = start;
    const { rows = 1, pieceTokens, keptImageBytes = 0 } = options;
    const pieces = pieceTokens !== undefined && { pieceTokens };
    this.#batch = new RowBatch(opened.model, { slots: rows, keptImageBytes, ...pieces });
    this.#eosIds = endOfAnswerIds(opened);
  }

  get size(): number {
    return this.#open.size;
  }

  /** Whether so many questions may begin now. A group larger than the batch begins alone. */
  hasRoomFor(questions: number): boolean {
    return this.size === 0 || this.size + questions <= (this.#options.rows ?? 1);
  }

  /** Takes questions in, all or none. */
  async begin(questions: readonly Q[]): Promise<AskEvent<Q>[]> {
    const prepared: PreparedQuestion<Q>[] = [];
    try {
      for (const question of questions) prepared.push(await this.prepare(question));
    } catch (error) {
      for (const each of prepared) this.discard(each);
      return this.#refused(questions, error);
    }
    return this.start(prepared);
  }

  /** Reads a question's image and makes tokens of its prompt, beside the passes. @throws UserError for what cannot be read or taken */
  async prepare(question: Q): Promise<PreparedQuestion<Q>> {
    const started = performance.now();
    const image = await this.#image(question);
    try {
      const request = await this.#request(question, image);
      const seconds = (performance.now() - started) / 1000;
      return { question, request, image, seconds, positions: positionsOf(request) };
    } catch (error) {
      image.pixels.dispose();
      throw error;
    }
  }

  /** Takes prepared questions in, all or none. */
  start(prepared: readonly PreparedQuestion<Q>[]): AskEvent<Q>[] {
    try {
      const started = performance.now();
      const rows = this.#batch.add(prepared.map(({ request }) => request));
      const seconds = (performance.now() - started) / 1000 / rows.length;
      rows.forEach((row, i) => {
        const { question, image, seconds: imageSeconds } = prepared[i]!;
        const { tokenGrid, source } = image;
        const stream = (this.#options.textDeltas ?? true) ? this.#opened.tokenizer.stream() : null;
        row.seconds.prefill += seconds;
        this.#open.set(row, { question, tokenGrid, source, imageSeconds, stream });
      });
      return [];
    } catch (error) {
      return this.#refused(
        prepared.map(({ question }) => question),
        error,
      );
    } finally {
      for (const each of prepared) this.discard(each);
    }
  }

  /** Frees a prepared question that will not be started. */
  discard({ image }: PreparedQuestion<Q>): void {
    image.pixels.dispose();
  }

  /** Stops a question that was started; no event of it comes any more. Others that would have taken its latent steps end with an error. */
  cancel(question: Q): void {
    for (const [row, open] of this.#open) {
      if (open.question !== question) continue;
      this.#open.delete(row);
      this.#batch.remove(row);
    }
  }

  /** Makes room for so many questions of so many positions each, while none is under way. */
  reserve(questions: number, positions: number): void {
    this.#batch.reserve(questions, positions);
  }

  /** Bytes of keys and values that are held. */
  get cacheBytes(): number {
    return this.#batch.cacheBytes;
  }

  #refused(questions: readonly Q[], error: unknown): AskEvent<Q>[] {
    if (!(error instanceof UserError)) throw error;
    return questions.map((question) => ({ type: 'error', question, error }));
  }

  /** One pass over all questions. */
  step(): AskEvent<Q>[] {
    return this.#batch.step().flatMap((event) => this.#translate(event));
  }

  dispose(): void {
    this.#batch.dispose();
  }

  #image({ image }: Q): Promise<ProcessedImage> {
    return (this.#options.processImage ?? this.#opened.processImage)(image);
  }

  async #request(question: Q, image: ProcessedImage): Promise<RowRequest> {
    const { settings } = this.#opened;
    const asked = { ...this.#options, ...this.#options.of?.(question) };
    const { latentSteps = settings.latents, maxNewTokens = 512, trace = false, traceText = false } = asked;
    const render = this.#opened.renderOptions(asked.task ?? settings.task ?? DEFAULT_TASK);
    const { messages } = question;
    const { promptIds, imageStart, afterLatentIds } = messages
      ? await tokenizeConversation(messages, image.tokens, render)
      : await tokenizeSample(toSample(question), image.tokens, 'infer', render);
    const latent = { ...latentOptions(settings), ...asked.latent };
    const seed = this.#options.seed?.(question);
    return {
      promptIds,
      image,
      imageKey: this.#options.imageKey?.(question),
      imageStart,
      latentSteps,
      afterLatentIds: [...afterLatentIds, ...this.#start],
      options: {
        ...{ ...latent, maxNewTokens, eosIds: this.#eosIds, trace, traceText },
        ...(seed !== undefined && { seed }),
      },
    };
  }

  #translate(event: RowEvent): AskEvent<Q>[] {
    const { row } = event;
    const open = this.#open.get(row);
    if (!open) return []; // the answer ended with its first line earlier in this pass
    const { question, stream } = open;
    switch (event.type) {
      case 'latent-step':
        return [{ type: 'latent-step', question, step: event.step, picked: event.picked, trace: event.trace }];
      case 'token': {
        const text = stream?.push(event.id) ?? '';
        const events: AskEvent<Q>[] = text === '' ? [] : [{ type: 'text-delta', question, text }];
        const step = row.tokens.length - 1;
        if (event.trace) events.unshift({ type: 'token-trace', question, step, trace: event.trace });
        if (this.#start.length === 0 || !this.#decode(row.tokens).includes('\n')) return events;
        this.#batch.remove(row);
        return [...events, this.#end(row, open, 'eos')];
      }
      case 'end': {
        const text = stream?.end() ?? '';
        const events: AskEvent<Q>[] = text === '' ? [] : [{ type: 'text-delta', question, text }];
        return [...events, this.#end(row, open, event.reason)];
      }
      case 'error':
        this.#open.delete(row);
        return [{ type: 'error', question, error: event.error }];
    }
  }

  #end(row: Row, { question, tokenGrid, source, imageSeconds }: Open<Q>, reason: Answer['reason']): AskEvent<Q> {
    this.#open.delete(row);
    const { tokens, picked, traces, textTraces, seconds, steps, request } = row;
    const text = this.#decode(tokens);
    return {
      type: 'end',
      question,
      answer: {
        promptIds: request.promptIds,
        text: this.#start.length > 0 && text.includes('\n') ? text.slice(0, text.indexOf('\n')) : text,
        tokens,
        tokenGrid,
        source,
        picked,
        trace: traces,
        textTrace: textTraces,
        autoregressiveSteps: steps + tokens.length,
        reason,
        seconds: { image: imageSeconds, ...seconds },
      },
    };
  }

  /** Start and tokens are decoded together, since tokenizers of words see spaces between tokens. */
  #decode(tokens: readonly number[]): string {
    return this.#opened.tokenizer.decode([...this.#start, ...tokens]);
  }
}

function toSample(question: Question): Sample {
  const { image, choices } = question;
  return {
    id: 'question',
    rationale: '',
    answer: '',
    meta: {},
    image,
    question: question.question,
    choices: [...choices],
  };
}

function iterate<T>(items: AsyncIterable<T> | Iterable<T>): AsyncIterator<T> {
  return (async function* () {
    yield* items;
  })();
}
