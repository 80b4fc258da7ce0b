/**
 * Questions about images, from bytes to answers: the terminal, evaluation, validation and the demo all ask through here. Questions come as a
 * stream; up to `rows` of them are answered together, and one that has ended makes room for the next.
 */
import { join } from 'node:path';
import { z } from 'zod';
import { renderInference, tokenizeSample } from '../data/render.ts';
import type { Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { isListed, readJson } from '../files.ts';
import type { Row, RowRequest } from '../latent/row.ts';
import { RowBatch, type RowEvent } from '../latent/row-batch.ts';
import type { ProcessedImage } from '../models/types.ts';
import { AnswerText } from './answer-text.ts';
import { type LoadedModel, latentOptions } from './loaded-model.ts';
import type { Answer, AskEvent, AskOptions, Question, QuestionOptions } from './question.ts';

export type { Answer, AskEvent, AskOptions, Question, QuestionOptions } from './question.ts';

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
  tokenGrid: Answer['tokenGrid'];
  source: Answer['source'];
  imageSeconds: number;
  /** Null when nobody asks for the text before its end. */
  text: AnswerText | null;
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
    this.#batch = new RowBatch(opened.model, { slots: options.rows ?? 1 });
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
    const images: ProcessedImage[] = [];
    try {
      const requests: RowRequest[] = [];
      const open: Open<Q>[] = [];
      for (const question of questions) {
        const started = performance.now();
        const image = await this.#image(question);
        images.push(image);
        const options = this.#optionsOf(question);
        requests.push(await this.#request(question, image, options));
        open.push({
          question,
          tokenGrid: image.tokenGrid,
          source: image.source,
          imageSeconds: (performance.now() - started) / 1000,
          text: this.#text(options),
        });
      }
      const started = performance.now();
      const rows = this.#batch.add(requests);
      const seconds = (performance.now() - started) / 1000 / rows.length;
      rows.forEach((row, i) => {
        row.seconds.prefill += seconds;
        this.#open.set(row, open[i]!);
      });
      return [];
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      return questions.map((question) => ({ type: 'error', question, error }));
    } finally {
      for (const image of images) image.pixels.dispose();
    }
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

  /** What is set for all questions, and over it what the question sets for itself. */
  #optionsOf(question: Q): QuestionOptions {
    const all = this.#options;
    const { options: own = {} } = question;
    const set = Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined));
    const seed = own.seed ?? all.seed?.(question);
    return {
      ...all,
      ...set,
      latent: { ...all.latent, ...own.latent },
      sampling: { ...all.sampling, ...own.sampling },
      seed,
    };
  }

  async #request(question: Q, image: ProcessedImage, options: QuestionOptions): Promise<RowRequest> {
    const { settings } = this.#opened;
    const { latentSteps = settings.latents, maxNewTokens = 512, trace = false, traceText = false } = options;
    const { seed, sampling, logprobs, forcePatches, forbidPatches } = options;
    if (this.#start.length > 0 && latentSteps > 0)
      throw new UserError('an answer can be started only without latent steps, but this question takes some');
    const render = this.#opened.renderOptions(options.task ?? settings.task ?? DEFAULT_TASK);
    const tokenized = await tokenizeSample(toSample(question), image.tokens, 'infer', render);
    const { latentStart, imageStart, ids } = renderInference(tokenized, latentSteps, this.#start);
    const latent = { ...latentOptions(settings), ...options.latent };
    return {
      promptIds: ids.slice(0, latentStart),
      image,
      imageStart,
      latentSteps,
      afterLatentIds: ids.slice(latentStart + latentSteps),
      options: {
        ...{ ...latent, maxNewTokens, eosIds: this.#eosIds, trace, traceText },
        ...(seed !== undefined && { seed }),
        ...(sampling && { sampling }),
        ...(logprobs !== undefined && { logprobs }),
        ...(forcePatches && { forcePatches }),
        ...(forbidPatches && { forbidPatches }),
      },
    };
  }

  #text({ stop = [] }: QuestionOptions): AnswerText | null {
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
        const events: AskEvent<Q>[] = [];
        if (event.logprobs) events.push({ type: 'token', question, id: event.id, logprobs: event.logprobs });
        events.push(...this.#delta(question, text?.push(event.id)));
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

  #end(
    row: Row,
    { question, tokenGrid, source, imageSeconds, text }: Open<Q>,
    finish: Answer['finishReason'],
  ): AskEvent<Q> {
    this.#open.delete(row);
    const { tokens, picked, traces, textTraces, logprobs, seconds, steps, request } = row;
    return {
      type: 'end',
      question,
      answer: {
        promptIds: request.promptIds,
        text: text && text.stop !== null ? text.whole : this.#decode(tokens),
        finishReason: finish,
        stopString: text?.stop ?? null,
        tokens,
        logprobs,
        tokenGrid,
        source,
        picked,
        trace: traces,
        textTrace: textTraces,
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

/** The tokenizer's end-of-text and those of generation_config.json: chat models end a turn with another token than a text. */
function endOfAnswerIds(opened: LoadedModel): number[] {
  const path = join(opened.folder, 'generation_config.json');
  if (!isListed(path)) return [opened.tokenizer.eosId];
  const id = z
    .int()
    .min(0)
    .max(opened.model.vocabularySize - 1);
  const schema = z.object({ eos_token_id: z.union([id, z.array(id)]).nullish() });
  const parsed = schema.safeParse(readJson(path, 'generation config'));
  if (!parsed.success) {
    throw new UserError(
      parsed.error.issues[0]!.path.length === 0
        ? `${path} should hold an object`
        : `${path}: eos_token_id should be a token id below ${opened.model.vocabularySize}, or a list of them`,
    );
  }
  return [...new Set([opened.tokenizer.eosId, ...[parsed.data.eos_token_id ?? []].flat()])];
}

function toSample(question: Question): Sample {
  return { id: 'question', rationale: '', answer: '', meta: {}, ...question, choices: [...question.choices] };
}

function iterate<T>(items: AsyncIterable<T> | Iterable<T>): AsyncIterator<T> {
  return (async function* () {
    yield* items;
  })();
}
