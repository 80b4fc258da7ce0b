/**
 * The process that owns the model, as the server sees it: a queue in front of it, a heartbeat, and a new process when it dies or hangs. What the
 * process had in hand when it ended is answered with an error; what waited in the queue is asked of the next one.
 */
import { compiledModule } from '../compiled-module.ts';
import type { WorkerModel } from '../pool/worker-messages.ts';
import { EndedError, WorkerProcess } from '../pool/worker-process.ts';
import {
  bytesOf,
  type EngineEvent,
  type EngineInfo,
  type EngineLimits,
  type EngineQuestion,
  type EngineStats,
  type FromEngine,
  type ToEngine,
} from './engine-messages.ts';
import { badRequest, HttpError } from './http-error.ts';

export interface EngineOptions {
  model: WorkerModel;
  threads: number;
  limits: EngineLimits;
  /** Questions that may wait, and bytes of their pictures. */
  maxQueue: number;
  maxQueueBytes: number;
  /** A process that says nothing for so long is ended. */
  hangMs: number;
  /** A process that has not loaded the model after so long is ended. */
  openMs: number;
  /** Told of deaths and restarts, and of what the process writes to its stderr, in one line each. */
  note(line: string): void;
}

/** What a listener is told besides the process's own events: why there will be no answer. */
export type TicketEvent = Exclude<EngineEvent, { type: 'error' }> | { type: 'error'; error: HttpError };

/** A question that was asked. */
export interface Ticket {
  /** Since it was asked, until it joined the batch; null before. */
  readonly queuedSeconds: number | null;
  /** No event comes after it; the row is free within one step. */
  cancel(): void;
}

interface Asked {
  id: number;
  question: EngineQuestion;
  tell(event: TicketEvent): void;
  asked: number;
  queuedSeconds: number | null;
}

export type EngineState = 'loading' | 'ready' | 'failed' | 'closed';

/** Processes that may die one after the other without an answer between them before questions are refused at once. */
const ATTEMPTS = 3;
/** Heartbeats that a process may miss; more, and it hangs. Counted, not timed: a server that was itself stopped for a while must not blame it. */
const BEATS = 10;
/** Questions beyond the batch that the process is given, so that their pictures are read ahead. */
const AHEAD = 4;
const LONGEST_PAUSE_MS = 30_000;

export class Engine {
  readonly #options: EngineOptions;
  #process: WorkerProcess<ToEngine, FromEngine, EngineInfo> | null = null;
  #state: EngineState = 'loading';
  #info: EngineInfo | null = null;
  #stats: EngineStats = EMPTY;
  readonly #queue: Asked[] = [];
  #queueBytes = 0;
  readonly #inHand = new Map<number, Asked>();
  #ids = 0;
  #deaths = 0;
  #restarts = 0;
  #missed = 0;
  #lastAnswer: number | null = null;
  /** Moving mean of seconds between two answers that end. */
  #pace = 1;
  readonly #beat: NodeJS.Timeout;
  #pause: NodeJS.Timeout | null = null;
  /** Why the process is being ended; null when it ended by itself. */
  #killedFor: string | null = null;

  /** Starts the process and waits until it has opened the model. @throws UserError what it said when it could not */
  static async open(options: EngineOptions): Promise<Engine> {
    const engine = new Engine(options);
    try {
      await engine.#start();
      return engine;
    } catch (error) {
      await engine.close();
      throw error;
    }
  }

  private constructor(options: EngineOptions) {
    this.#options = options;
    this.#beat = setInterval(() => this.#ping(), Math.max(20, options.hangMs / BEATS));
    this.#beat.unref();
  }

  get info(): EngineInfo {
    return this.#info!;
  }
  get state(): EngineState {
    return this.#state;
  }
  get stats(): EngineStats {
    return this.#stats;
  }
  get restarts(): number {
    return this.#restarts;
  }
  get pid(): number | undefined {
    return this.#process?.pid;
  }
  /** Questions that wait in the queue. */
  get queued(): number {
    return this.#queue.length;
  }
  /** Questions that the process has. */
  get inHand(): number {
    return this.#inHand.size;
  }
  /** Milliseconds since the last answer that ended; null when none has. */
  get sinceAnswer(): number | null {
    return this.#lastAnswer === null ? null : performance.now() - this.#lastAnswer;
  }
  /** Whether the process answers heartbeats. */
  get responsive(): boolean {
    return this.#state === 'ready' && this.#missed <= BEATS / 2;
  }

  /** @throws HttpError 400 when so many questions never fit, 429 when they have no room in the queue, 503 when there is no process and will not be soon */
  requireRoom(questions: number, bytes: number): void {
    if (this.#state === 'closed') throw stopping();
    if (this.#state === 'failed') throw gone('the engine cannot be started; see the log of the server');
    const { maxQueue, maxQueueBytes } = this.#options;
    const most = this.#atOnce + maxQueue;
    if (questions > most) throw badRequest(`n: this server takes at most ${most} answers to a question`, 'n');
    const free = this.#state === 'ready' ? Math.max(0, this.#atOnce - this.#inHand.size - this.#queue.length) : 0;
    const full = this.#queue.length + questions - free > maxQueue;
    if (full || (this.#queue.length > 0 && this.#queueBytes + bytes > maxQueueBytes)) {
      const wait = Math.ceil(this.#queue.length * this.#pace);
      throw new HttpError(
        429,
        `${this.#queue.length} questions are waiting already, and no more can; try again later`,
        { code: 'queue_full', retryAfter: Math.min(60, Math.max(1, wait)) },
      );
    }
  }

  /** Asks; `tell` is given the events, the last of which is `end` or `error`. Call `requireRoom` before. */
  ask(question: EngineQuestion, tell: (event: TicketEvent) => void): Ticket {
    const asked: Asked = { id: ++this.#ids, question, tell, asked: performance.now(), queuedSeconds: null };
    this.#queue.push(asked);
    this.#queueBytes += bytesOf(question);
    this.#pump();
    return {
      get queuedSeconds() {
        return asked.queuedSeconds;
      },
      cancel: () => this.#cancel(asked),
    };
  }

  /** Answers what is left with an error and ends the process. */
  async close(): Promise<void> {
    this.#state = 'closed';
    clearInterval(this.#beat);
    if (this.#pause) clearTimeout(this.#pause);
    this.#lose(stopping());
    this.#dropQueue(stopping());
    await this.#process?.close();
  }

  get #atOnce(): number {
    return this.#options.limits.rows + AHEAD;
  }

  #pump(): void {
    while (this.#state === 'ready' && this.#inHand.size < this.#atOnce) {
      const asked = this.#queue.shift();
      if (!asked) return;
      this.#queueBytes -= bytesOf(asked.question);
      this.#inHand.set(asked.id, asked);
      this.#process!.send({ type: 'coming' });
      this.#process!.send({ type: 'ask', id: asked.id, question: asked.question });
    }
  }

  #cancel(asked: Asked): void {
    const at = this.#queue.indexOf(asked);
    if (at >= 0) {
      this.#queue.splice(at, 1);
      this.#queueBytes -= bytesOf(asked.question);
    } else if (this.#inHand.delete(asked.id)) {
      this.#process!.send({ type: 'cancel', id: asked.id });
      this.#pump();
    }
  }

  async #start(): Promise<void> {
    const { model, threads, limits, openMs, note } = this.#options;
    const process = new WorkerProcess<ToEngine, FromEngine, EngineInfo>(
      compiledModule('./engine-child', import.meta.url),
      { type: 'open', model, index: 0, threads, limits },
      {
        message: (message) => this.#receive(message),
        line: note,
        ended: (how) => this.#ended(how),
      },
    );
    this.#process = process;
    process.ref();
    const late = setTimeout(() => {
      this.#killedFor = `it had not loaded the model after ${openMs / 1000} s`;
      process.kill();
    }, openMs);
    try {
      this.#info = await process.opened;
    } finally {
      clearTimeout(late);
    }
    if (this.#state === 'closed') return;
    this.#missed = 0;
    this.#state = 'ready';
    this.#pump();
  }

  #ping(): void {
    if (this.#state !== 'ready') return;
    if (++this.#missed > BEATS) {
      if (this.#killedFor !== null) return;
      this.#killedFor = `it said nothing for ${this.#options.hangMs / 1000} s`;
      this.#process!.kill();
      return;
    }
    this.#process!.send({ type: 'ping' });
  }

  #receive(message: FromEngine): void {
    this.#missed = 0;
    if (message.type === 'opened') return;
    if (message.type === 'failed') {
      // Something went wrong that is no question's fault: what the process holds cannot be trusted.
      this.#killedFor = `it failed: ${message.error.message}`;
      this.#process!.kill();
      return;
    }
    this.#stats = { ...this.#stats, ...message.stats };
    if (message.type === 'events') for (const { id, event } of message.events) this.#hand(id, event);
    this.#pump();
  }

  #hand(id: number, event: EngineEvent): void {
    const asked = this.#inHand.get(id);
    if (!asked) return; // cancelled
    if (event.type === 'start')
      asked.queuedSeconds = Math.max(0, (performance.now() - asked.asked) / 1000 - event.spent);
    if (event.type === 'end' || event.type === 'error') {
      this.#inHand.delete(id);
      this.#deaths = 0;
      const now = performance.now();
      if (this.#lastAnswer !== null)
        this.#pace = 0.9 * this.#pace + 0.1 * Math.min(60, (now - this.#lastAnswer) / 1000);
      this.#lastAnswer = now;
    }
    asked.tell(event.type === 'error' ? { type: 'error', error: errorOf(event, asked.question, this.info) } : event);
  }

  #ended(how: string): void {
    if (this.#state === 'closed') return;
    const why = this.#killedFor === null ? how : `${this.#killedFor} and was ended`;
    this.#killedFor = null;
    this.#died(why);
  }

  #died(why: string): void {
    this.#state = 'loading';
    this.#stats = EMPTY;
    this.#deaths++;
    const lost = this.#inHand.size;
    this.#options.note(
      `the engine died: ${why}; ${lost} ${lost === 1 ? 'question' : 'questions'} lost; it is started again`,
    );
    this.#lose(gone('the engine that had this question has died; it is being started again'));
    if (this.#deaths >= ATTEMPTS) {
      this.#state = 'failed';
      this.#dropQueue(gone('the engine died several times in a row'));
    }
    const pause = this.#deaths <= 1 ? 0 : Math.min(LONGEST_PAUSE_MS, 500 * 2 ** (this.#deaths - 2));
    this.#pause = setTimeout(() => {
      this.#restarts++;
      this.#start().catch((error: Error) => {
        if (this.#state === 'closed') return;
        const reason = error instanceof EndedError ? `${error.message} while it loaded the model` : error.message;
        const killed = this.#killedFor;
        this.#killedFor = null;
        this.#died(killed ?? reason);
      });
    }, pause);
  }

  #lose(error: HttpError): void {
    const lost = [...this.#inHand.values()];
    this.#inHand.clear();
    for (const { tell } of lost) tell({ type: 'error', error });
  }

  #dropQueue(error: HttpError): void {
    this.#queueBytes = 0;
    for (const { tell } of this.#queue.splice(0)) tell({ type: 'error', error });
  }
}

const EMPTY: EngineStats = {
  running: 0,
  waiting: 0,
  cacheBytes: 0,
  cacheUsedBytes: 0,
  residentBytes: 0,
  liveTensors: 0,
  passes: 0,
};

function errorOf(
  { message, user }: { message: string; user: boolean },
  { pictures, other, options }: EngineQuestion,
  info: EngineInfo,
): HttpError {
  if (!user) return new HttpError(500, message, { code: 'engine_failed' });
  // Fields have names of their own in requests.
  for (const [name, field] of [
    ['forcePatches', 'ivtlr.force'],
    ['forbidPatches', 'ivtlr.forbid'],
  ] as const)
    if (message.includes(name)) return new HttpError(400, message.replaceAll(name, field), { param: field });
  if (options.forcePatches && message.includes('both forces and forbids'))
    return new HttpError(400, message, { param: 'ivtlr.force' });
  if (message.startsWith('the prompt takes ')) {
    // More latent steps or patches than the model was trained with are what the request can take back.
    const { latentSteps = info.latents, latent: { patches = info.patches } = {} } = options;
    if (latentSteps > info.latents) return new HttpError(400, message, { param: 'ivtlr.latents' });
    if (patches > info.patches) return new HttpError(400, message, { param: 'ivtlr.patches' });
  }
  const picture = [...pictures, ...(other ? [other] : [])].find(({ name }) => message.startsWith(`${name}: `));
  return new HttpError(400, message, { param: picture?.name ?? 'messages', code: picture ? 'invalid_image' : null });
}

function gone(message: string): HttpError {
  return new HttpError(503, message, { type: 'engine_error', code: 'engine_restarting', retryAfter: 2 });
}

function stopping(): HttpError {
  return new HttpError(503, 'the server is stopping', { code: 'server_stopping', retryAfter: 10 });
}
