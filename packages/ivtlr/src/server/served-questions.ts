/**
 * The questions that the process with the model answers: they join the batch as soon as there is room for their keys and values, each with options of
 * its own, and what happens to them is told to the server.
 */
import { createHash } from 'node:crypto';
import { availableMemory, liveTensorCount } from '@ivtlr/torch';
import { answerBytes } from '../engine/answer-memory.ts';
import { type AskEvent, Asker, type PreparedQuestion, type Question } from '../engine/ask.ts';
import type { LoadedModel } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import { sendable, tellParent } from '../pool/worker-inside.ts';
import { imageSize } from '../vision/decode.ts';
import { ImagePool } from '../vision/image-pool.ts';
import { CacheBudget } from './cache-budget.ts';
import type { EngineEvent, EngineLimits, EngineQuestion, EngineStats, FromEngine } from './engine-messages.ts';
import type { TokenLogprob } from './protocol.ts';
import { seenLogprobs, seenPictures, seenStep } from './seen.ts';

const IMAGE_THREADS = 2;
/** Characters of the questions that are prepared at the same time, where there are several: a long text takes its time and memory alone. */
const PREPARED_CHARACTERS = 2 ** 16;
/** Share of a pass that questions on their way may take before the next one: those that join early share its passes. */
const TAKING_IN = 0.1;
/** Of pictures that are asked about again. */
const KEPT_IMAGE_BYTES = 64 * 2 ** 20;

interface Served extends Question {
  id: number;
  options: EngineQuestion['options'];
  /** Of its text. */
  characters: number;
  /** Hashes of the pictures' bytes. */
  imageKeys: string[];
  /** Of tokens whose text was not told yet. */
  logprobs: TokenLogprob[];
  /** The last one that is text, where logprobs are told. */
  lastToken: number | null;
  /** What is told with the end; null when all is told as it happens. */
  held: EngineEvent[] | null;
  /** Whether its first text was told. */
  wrote: boolean;
  /** When its last step ended, ms. */
  last: number;
  cancelled: boolean;
  /** The same question about another picture, whose latent steps this one takes; of it nothing is told. */
  lender: Served | null;
}

/** Questions that begin together: one that was sent, and what lends it its latent steps. */
type Group = readonly [PreparedQuestion<Served>, ...PreparedQuestion<Served>[]];

export class ServedQuestions {
  readonly #opened: LoadedModel;
  readonly #asker: Asker<Served>;
  readonly #budget: CacheBudget;
  readonly #served = new Map<number, Served>();
  readonly #prepared: Group[] = [];
  readonly #wake: () => void;
  #events: { id: number; event: EngineEvent }[] = [];
  #passes = 0;
  /** Questions whose turn to be prepared has not come, in their order. */
  readonly #taken: Served[] = [];
  /** Questions whose pictures and prompts are being read. */
  #preparing = 0;
  #preparingCharacters = 0;
  /** Of the last pass, ms. */
  #passTime = 0;
  #residentBytes = 0;
  #liveTensors = 0;

  static async open(opened: LoadedModel, limits: EngineLimits, wake: () => void): Promise<ServedQuestions> {
    const threads = new ImagePool(opened.inputs.preparation, IMAGE_THREADS);
    const asker = await Asker.open<Served>(opened, {
      rows: limits.rows,
      pieceTokens: limits.pieceTokens,
      of: ({ options: { trace, ...options } }) => ({
        ...options,
        trace: trace === 'full',
        traceText: trace === 'full',
      }),
      imageKeys: ({ imageKeys }) => imageKeys,
      keptImageBytes: KEPT_IMAGE_BYTES,
      processImage: async (image) => {
        if (image.kind === 'encoded') {
          const { width, height } = await imageSize(image.bytes, image.name);
          if (width * height > limits.maxPixels)
            throw new UserError(
              `${image.name}: ${width}x${height} pixels are more than ${limits.maxPixels}, the limit of this server`,
            );
        }
        return opened.inputs.finish(await threads.prepare(image));
      },
    });
    return new ServedQuestions(opened, limits, asker, wake);
  }

  private constructor(opened: LoadedModel, limits: EngineLimits, asker: Asker<Served>, wake: () => void) {
    this.#opened = opened;
    this.#asker = asker;
    this.#wake = wake;
    this.measureMemory();
    const free = Math.floor(availableMemory(opened.model.device) / 2);
    const perPosition = answerBytes(opened, { rows: 1, latentSteps: 0, maxNewTokens: 1 });
    this.#budget = new CacheBudget(limits.cacheBytes ?? free, perPosition, limits.rows);
  }

  get cacheBudget(): number {
    return this.#budget.bytes;
  }

  /** Nothing to do before a message comes or a question is prepared. */
  get idle(): boolean {
    return this.#asker.size === 0 && this.#prepared.length === 0;
  }

  /** Questions are being read that will join the batch. */
  get takesIn(): boolean {
    return this.#preparing > 0;
  }

  /** How long they are waited for before the next pass, ms. */
  get patience(): number {
    return TAKING_IN * this.#passTime;
  }

  /** The memory of the process and its tensors are counted here, which takes too long for every pass. */
  measureMemory(): void {
    this.#residentBytes = process.memoryUsage.rss();
    this.#liveTensors = liveTensorCount();
  }

  get stats(): EngineStats {
    const running = this.#asker.size;
    return {
      running,
      waiting: Math.max(0, this.#served.size - running),
      cacheBytes: this.#asker.cacheBytes,
      cacheUsedBytes: this.#budget.used(running),
      residentBytes: this.#residentBytes,
      liveTensors: this.#liveTensors,
      passes: this.#passes,
    };
  }

  take(id: number, question: EngineQuestion): void {
    const served = servedOf(id, question);
    this.#served.set(id, served);
    this.#taken.push(served);
    this.#prepareNext();
  }

  /** In their order, long texts one after the other, so that one that is cancelled before its turn costs nothing. */
  #prepareNext(): void {
    while (this.#taken.length > 0) {
      const one = this.#taken[0]!;
      const { characters } = one;
      if (this.#preparing > 0 && this.#preparingCharacters + characters > PREPARED_CHARACTERS) return;
      this.#taken.shift();
      this.#preparing++;
      this.#preparingCharacters += characters;
      this.#prepare(one)
        .then(
          (group) => {
            if (one.cancelled) this.#discard(group);
            else this.#prepared.push(group);
          },
          (error: unknown) => {
            if (!one.cancelled) this.#fail(one, error);
          },
        )
        .then(() => {
          this.#preparing--;
          this.#preparingCharacters -= characters;
          this.#prepareNext();
          this.#wake();
        });
    }
  }

  async #prepare(served: Served): Promise<Group> {
    const prepared = await this.#asker.prepare(served);
    if (!served.lender) return [prepared];
    try {
      return [prepared, await this.#asker.prepare(served.lender)];
    } catch (error) {
      this.#asker.discard(prepared);
      throw error;
    }
  }

  #discard(group: Group): void {
    for (const prepared of group) this.#asker.discard(prepared);
  }

  cancel(id: number): void {
    const served = this.#served.get(id);
    if (!served) return;
    served.cancelled = true;
    this.#served.delete(id);
    const turn = this.#taken.indexOf(served);
    if (turn >= 0) this.#taken.splice(turn, 1);
    const at = this.#prepared.findIndex(([{ question }]) => question === served);
    if (at >= 0) this.#discard(this.#prepared.splice(at, 1)[0]!);
    else for (const each of [served, served.lender]) if (each) this.#asker.cancel(each);
  }

  /** Begins at most one question, or reads a piece of its pictures with the model, and makes one pass. */
  step(): void {
    const started = performance.now();
    if (this.#begin()) this.#flush(); // the server measures how long it waited
    if (this.#asker.size > 0) {
      this.#passes++;
      for (const event of this.#asker.step()) this.#translate(event);
    }
    this.#passTime = performance.now() - started;
    this.#flush();
  }

  /** Tells the server what has happened. */
  #flush(): void {
    const events = this.#events;
    if (events.length === 0) return;
    this.#events = [];
    const goesOn = events.every(({ event: { type } }) => type === 'text' || type === 'step');
    const happened: FromEngine = { type: 'events', events, stats: goesOn ? { passes: this.#passes } : this.stats };
    tellParent(happened);
  }

  #begin(): boolean {
    const group = this.#prepared[0];
    if (!group || !this.#asker.hasRoomFor(group.length)) return false;
    const [{ question, request, images }] = group;
    try {
      const columns = Math.max(...group.map((each) => each.columns));
      const admission = this.#budget.admit(this.#asker.size, columns, group.length);
      if (admission === 'wait') return false;
      // Alone in the batch nobody waits for its picture.
      if (this.#asker.size > 0 && !this.#asker.readAhead(group)) return false;
      if (admission !== 'fits') this.#asker.reserve(admission.slots, admission.positions);
    } catch (error) {
      this.#prepared.shift();
      this.#discard(group);
      this.#fail(question, error);
      return false;
    }
    this.#prepared.shift();
    const started = performance.now();
    const refused = this.#asker.start(group);
    if (refused.length === 0) {
      const [{ seconds, ahead }] = group;
      const { settings } = this.#opened;
      const { latentSteps, promptIds, options } = request;
      const task = question.options.task ?? settings.task ?? 'm3cot';
      question.last = performance.now();
      this.#tell(question, {
        type: 'start',
        images: seenPictures(images),
        promptTokens: promptIds.length,
        spent: seconds + ahead + (performance.now() - started) / 1000,
        settings: { latents: latentSteps, patches: options.patches, task },
      });
    }
    for (const event of refused) this.#translate(event);
    return refused.length === 0;
  }

  #translate(event: AskEvent<Served>): void {
    const { question } = event;
    if (this.#served.get(question.id) !== question) return; // it lends its latent steps, or has failed
    const { trace } = question.options;
    switch (event.type) {
      case 'latent-step':
        if (trace === 'none') return;
        this.#tell(question, { type: 'step', step: seenStep('latent', event, this.#elapsed(question)) });
        return;
      case 'token-trace': {
        const { step, trace } = event;
        const seen = seenStep('token', { step, picked: trace.picked, trace }, this.#elapsed(question));
        this.#tell(question, { type: 'step', step: seen });
        return;
      }
      case 'text-delta':
        this.#tell(question, { type: 'text', text: event.text, logprobs: this.#takeLogprobs(question) });
        return;
      case 'token': {
        const seen = seenLogprobs(event.logprobs, this.#opened.tokenizer, question.lastToken);
        // They go with the text that they become, which may be certain only later.
        question.logprobs.push(...seen);
        if (seen.length > 0) question.lastToken = event.id;
        return;
      }
      case 'end': {
        const { text, finishReason, tokens, picked, seconds } = event.answer;
        const logprobs = this.#takeLogprobs(question);
        if (logprobs) this.#tell(question, { type: 'text', text: '', logprobs });
        this.#served.delete(question.id);
        this.#tell(question, {
          ...{ type: 'end', text, reason: finishReason },
          ...{ tokens: tokens.length, latentSteps: picked.length, seconds },
        });
        return;
      }
      case 'error':
        this.#fail(question, event.error);
    }
  }

  #takeLogprobs({ logprobs }: Served): TokenLogprob[] | null {
    return logprobs.length === 0 ? null : logprobs.splice(0);
  }

  #elapsed(served: Served): number {
    const now = performance.now();
    const seconds = (now - served.last) / 1000;
    served.last = now;
    return seconds;
  }

  #fail(served: Served, error: unknown): void {
    this.#served.delete(served.id);
    const { message, user } = sendable(error);
    // Where the model lies on this machine does not concern clients.
    const said = message.replace(/^sample question: /, '').replaceAll(`${this.#opened.folder}/`, '');
    this.#tell(served, { type: 'error', message: said, user });
  }

  #tell(served: Served, event: EngineEvent): void {
    const { id, held, wrote } = served;
    served.wrote ||= event.type === 'text';
    if (held && (event.type === 'step' || (event.type === 'text' && wrote))) {
      held.push(event);
      return;
    }
    if (held && event.type === 'end') for (const each of held) this.#events.push({ id, event: each });
    this.#events.push({ id, event });
  }
}

function servedOf(id: number, asked: EngineQuestion): Served {
  const { pictures, other, question, choices, messages, stream } = asked;
  const characters = JSON.stringify([question, choices, messages]).length;
  const about = (
    sent: EngineQuestion['pictures'],
    options: EngineQuestion['options'],
    lender: Served | null,
  ): Served => ({
    ...{ question, choices, messages, id, lender, options, characters },
    images: sent.map((picture) => ({ kind: 'encoded' as const, ...picture })),
    imageKeys: sent.map(({ bytes }) => createHash('sha256').update(bytes).digest('base64')),
    ...{ logprobs: [], lastToken: null, held: stream ? null : [], wrote: false, last: 0, cancelled: false },
  });
  if (!other) return about(pictures, asked.options, null);
  // It takes its latent steps and writes nothing. Tokens that are forced or forbidden are those of the picture.
  const { latentSteps, latent, lastStep, task, seed } = asked.options;
  return about(
    pictures,
    asked.options,
    about([other], { latentSteps, latent, lastStep, task, seed, maxNewTokens: 0, trace: 'none' }, null),
  );
}
