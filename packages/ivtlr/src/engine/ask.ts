/**
 * Questions, about images or none, from bytes to answers: the terminal, evaluation, validation and the demo all ask through here. Questions come as a
 * stream; up to `rows` of them are answered together, and one that has ended makes room for the next.
 */
import { tokenizeConversation } from '../data/conversation.ts';
import { tokenizeSample } from '../data/render.ts';
import type { RawImage, Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { columnsOf, type Row, type RowRequest } from '../latent/row.ts';
import { RowBatch, type RowEvent } from '../latent/row-batch.ts';
import type { ProcessedImage } from '../models/types.ts';
import { AnswerText } from './answer-text.ts';
import { endOfAnswerIds } from './end-of-answer.ts';
import { type LoadedModel, latentOptions } from './loaded-model.ts';
import type { Answer, AskEvent, AskOptions, Question, QuestionAskOptions, SeenImage } from './question.ts';

export type { Answer, AskEvent, AskOptions, Question, QuestionAskOptions, SeenImage } from './question.ts';

const DEFAULT_TASK = 'm3cot';

/**
 * Answers, greedily unless `sampling` says otherwise. Between passes the event loop runs, so that output is flushed and a caller can stop by leaving the loop.
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
  images: Answer['images'];
  imageSeconds: number;
  /** Null when nobody asks for the text before its end. */
  text: AnswerText | null;
}

/** A question whose images are read and whose prompt is tokens. */
export interface PreparedQuestion<Q extends Question> {
  readonly question: Q;
  readonly request: RowRequest;
  readonly images: readonly ProcessedImage[];
  readonly text: AnswerText | null;
  /** Reading the images and making tokens. */
  readonly seconds: number;
  /** The model reading the image before the question is started. */
  ahead: number;
  /** Columns of the cache that it takes at most. */
  readonly columns: number;
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
    this.#batch = new RowBatch(opened.model, { slots: rows, keptImageBytes, graphs: opened.graphs, ...pieces });
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

  /** Reads a question's images and makes tokens of its prompt, beside the passes. @throws UserError for what cannot be read or taken */
  async prepare(question: Q): Promise<PreparedQuestion<Q>> {
    const started = performance.now();
    const images: ProcessedImage[] = [];
    try {
      for (const image of question.images) images.push(await this.#processImage(image));
      const options = this.#optionsOf(question);
      const text = this.#text(options);
      const request = await this.#request(question, images, options);
      const seconds = (performance.now() - started) / 1000;
      return {
        question,
        request,
        images,
        text,
        seconds,
        ahead: 0,
        columns: columnsOf(request) + this.#batch.spareColumns,
      };
    } catch (error) {
      for (const { pixels } of images) pixels.dispose();
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
        const { question, images, text, ahead, seconds: imageSeconds } = prepared[i]!;
        row.seconds.prefill += ahead + seconds;
        this.#open.set(row, { question, images: images.map(seenOf), imageSeconds, text });
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

  /** Reads a piece of the pictures of prepared questions with the model (see RowBatch.readAhead). @returns whether they can be started */
  readAhead(prepared: readonly PreparedQuestion<Q>[]): boolean {
    const started = performance.now();
    const read = this.#batch.readAhead(prepared.map(({ request }) => request));
    const seconds = (performance.now() - started) / 1000 / prepared.length;
    for (const each of prepared) each.ahead += seconds;
    return read;
  }

  /** Frees a prepared question that will not be started. */
  discard({ images, request }: PreparedQuestion<Q>): void {
    this.#batch.forget(request);
    for (const { pixels } of images) pixels.dispose();
  }

  /** Stops a question that was started; no event of it comes any more. Others that would have taken its latent steps end with an error. */
  cancel(question: Q): void {
    for (const [row, open] of this.#open) {
      if (open.question !== question) continue;
      this.#open.delete(row);
      this.#batch.remove(row);
    }
  }

  /** Makes room for so many questions of so many columns each, while none is under way. */
  reserve(questions: number, columns: number): void {
    this.#batch.reserve(questions, columns - this.#batch.spareColumns);
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

  #processImage(image: RawImage): Promise<ProcessedImage> {
    return (this.#options.processImage ?? this.#opened.processImage)(image);
  }

  /** What is set for all questions, and over it what this one wants otherwise. */
  #optionsOf(question: Q): QuestionAskOptions {
    const all = this.#options;
    const own = all.of?.(question) ?? {};
    const set = Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined));
    const seed = own.seed ?? all.seed?.(question);
    const latent = { ...all.latent, ...own.latent };
    return { ...all, ...set, latent, sampling: { ...all.sampling, ...own.sampling }, seed };
  }

  async #request(question: Q, images: readonly ProcessedImage[], options: QuestionAskOptions): Promise<RowRequest> {
    const { settings } = this.#opened;
    const { latentSteps = settings.latents, maxNewTokens = 512, trace, traceText, latentStates } = options;
    const { seed, sampling, logprobs, lastStep, forcePatches, forbidPatches, pickFrom } = options;
    if (this.#start.length > 0 && latentSteps > 0)
      throw new UserError('an answer can be started only without latent steps, but this question takes some');
    const render = this.#opened.renderOptions(options.task ?? settings.task ?? DEFAULT_TASK);
    const { messages } = question;
    const { promptIds, afterLatentIds } = messages
      ? await tokenizeConversation(messages, images, render)
      : await tokenizeSample(toSample(question), images, 'infer', render);
    const latent = { ...latentOptions(settings), ...options.latent };
    return {
      promptIds,
      images,
      imageKeys: this.#options.imageKeys?.(question),
      latentSteps,
      afterLatentIds: [...afterLatentIds, ...this.#start],
      options: {
        ...{ ...latent, maxNewTokens, eosIds: this.#eosIds },
        ...{ trace: trace ?? false, traceText: traceText ?? false, latentStates: latentStates ?? false },
        ...(seed !== undefined && { seed }),
        ...(sampling && { sampling }),
        ...(logprobs !== undefined && { logprobs }),
        ...(lastStep && { lastStep }),
        ...(forcePatches && { forcePatches }),
        ...(forbidPatches && { forbidPatches }),
        ...(pickFrom !== undefined && { pickFrom }),
      },
    };
  }

  /** @throws UserError for an empty stop string */
  #text({ stop = [] }: QuestionAskOptions): AnswerText | null {
    const stops = this.#start.length > 0 ? [...stop, '\n'] : stop;
    const needed = (this.#options.textDeltas ?? true) || stops.length > 0;
    return needed ? new AnswerText(this.#opened.tokenizer, this.#start, stops) : null;
  }

  #translate(event: RowEvent): AskEvent<Q>[] {
    const { row } = event;
    const open = this.#open.get(row);
    if (!open) return []; // the answer ended at a stop string earlier in this pass
    const { question, text } = open;
    switch (event.type) {
      case 'latent-step':
        return [{ type: 'latent-step', question, step: event.step, picked: event.picked, trace: event.trace }];
      case 'token': {
        const { id, logprobs, trace } = event;
        const events: AskEvent<Q>[] = [];
        if (trace) events.push({ type: 'token-trace', question, step: row.tokens.length - 1, trace });
        if (logprobs) events.push({ type: 'token', question, id, logprobs });
        events.push(...this.#delta(question, text?.push(id)));
        if (!text || text.stop === null) return events;
        this.#batch.remove(row);
        return [...events, this.#end(row, open, 'stop')];
      }
      case 'end': {
        const events = this.#delta(question, text?.end());
        const stopped = event.reason === 'eos' || (text !== null && text.stop !== null);
        return [...events, this.#end(row, open, stopped ? 'stop' : 'length')];
      }
      case 'error':
        this.#open.delete(row);
        return [{ type: 'error', question, error: event.error }];
    }
  }

  #delta(question: Q, text = ''): AskEvent<Q>[] {
    return text === '' || this.#options.textDeltas === false ? [] : [{ type: 'text-delta', question, text }];
  }

  #end(row: Row, open: Open<Q>, finishReason: Answer['finishReason']): AskEvent<Q> {
    const { question, images, imageSeconds, text } = open;
    this.#open.delete(row);
    const { tokens, picked, traces, textTraces, states, logprobs, seconds, steps, request } = row;
    return {
      type: 'end',
      question,
      answer: {
        promptIds: request.promptIds,
        text: text && text.stop !== null ? text.whole : this.#decode(tokens),
        finishReason,
        stopString: text?.stop ?? null,
        tokens,
        logprobs,
        images,
        picked,
        trace: traces,
        textTrace: textTraces,
        states,
        autoregressiveSteps: steps + tokens.length,
        seconds: { image: imageSeconds, ...seconds },
      },
    };
  }

  /** Start and tokens are decoded together, since tokenizers of words see spaces between tokens. */
  #decode(tokens: readonly number[]): string {
    return this.#opened.tokenizer.decode([...this.#start, ...tokens]);
  }
}

function seenOf({ tokenGrid, views, source }: ProcessedImage): SeenImage {
  return { tokenGrid, ...(views && { views }), source };
}

function toSample(question: Question): Sample {
  const { images, choices } = question;
  return {
    id: 'question',
    rationale: '',
    answer: '',
    meta: {},
    images: [...images],
    question: question.question,
    choices: [...choices],
  };
}

function iterate<T>(items: AsyncIterable<T> | Iterable<T>): AsyncIterator<T> {
  return (async function* () {
    yield* items;
  })();
}
