/**
 * Questions about images, from bytes to answers: the terminal, evaluation, validation and the demo all ask through here. Questions come as a
 * stream; up to `rows` of them are answered together, and one that has ended makes room for the next.
 */
import { join } from 'node:path';
import { z } from 'zod';
import { renderInference, tokenizeSample } from '../data/render.ts';
import type { RawImage, Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { isListed, readJson } from '../files.ts';
import type { LatentOptions } from '../latent/options.ts';
import type { Row, RowRequest } from '../latent/row.ts';
import { RowBatch, type RowEvent } from '../latent/row-batch.ts';
import type { StepTrace } from '../latent/trace.ts';
import type { ProcessedImage } from '../models/types.ts';
import { type LoadedModel, latentOptions } from './loaded-model.ts';

export interface Question {
  image: RawImage;
  question: string;
  /** Texts of the choices, without letters; empty for an open question. */
  choices: readonly string[];
}

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
  /** This question's share, where several were answered together. */
  seconds: { image: number; prefill: number; latents: number; decode: number };
}

export type AskEvent<Q extends Question = Question> =
  | { type: 'latent-step'; question: Q; step: number; picked: number[]; trace: StepTrace | null }
  | { type: 'text-delta'; question: Q; text: string }
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
        requests.push(await this.#request(question, image));
        open.push({
          question,
          tokenGrid: image.tokenGrid,
          source: image.source,
          imageSeconds: (performance.now() - started) / 1000,
          stream: (this.#options.textDeltas ?? true) ? this.#opened.tokenizer.stream() : null,
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

  async #request(question: Q, image: ProcessedImage): Promise<RowRequest> {
    const { settings } = this.#opened;
    const { latentSteps = settings.latents, maxNewTokens = 512, trace = false, traceText = false } = this.#options;
    const render = this.#opened.renderOptions(this.#options.task ?? settings.task ?? DEFAULT_TASK);
    const tokenized = await tokenizeSample(toSample(question), image.tokens, 'infer', render);
    const { latentStart, imageStart, ids } = renderInference(tokenized, latentSteps, this.#start);
    const latent = { ...latentOptions(settings), ...this.#options.latent };
    const seed = this.#options.seed?.(question);
    return {
      promptIds: ids.slice(0, latentStart),
      image,
      imageStart,
      latentSteps,
      afterLatentIds: ids.slice(latentStart + latentSteps),
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
        if (this.#start.length === 0 || !this.#decode(row.tokens).includes('\n')) return events;
        this.#batch.remove(row);
        return [...events, this.#end(row, open)];
      }
      case 'end': {
        const text = stream?.end() ?? '';
        const events: AskEvent<Q>[] = text === '' ? [] : [{ type: 'text-delta', question, text }];
        return [...events, this.#end(row, open)];
      }
      case 'error':
        this.#open.delete(row);
        return [{ type: 'error', question, error: event.error }];
    }
  }

  #end(row: Row, { question, tokenGrid, source, imageSeconds }: Open<Q>): AskEvent<Q> {
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
