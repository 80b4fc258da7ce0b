/** What the routes share. */
import type { FastifyRequest } from 'fastify';
import type { Task } from '../tasks/task.ts';
import type { Engine } from './engine.ts';
import { HttpError } from './http-error.ts';
import type { Keys } from './keys.ts';
import type { Metrics } from './metrics.ts';
import type { PictureLimits } from './pictures.ts';

/** A model and the process that has it. */
export interface ServedModel {
  /** What clients call it. */
  id: string;
  engine: Engine;
}

export interface ServiceOptions {
  /** At least one, of different names; the first is asked by requests that name none. */
  models: readonly ServedModel[];
  metrics: Metrics;
  keys: Keys;
  /** Makes puzzles; null where no model's task can. */
  task: Task | null;
  /** Longest answer. */
  maxNewTokens: number;
  requestTimeoutMs: number;
  pictures: PictureLimits;
  /** Folder of training runs; null where none was given. */
  runs: string | null;
}

export interface Service extends ServiceOptions {
  /** Counts a request in whose key the server knows; call the result when it has ended. @throws HttpError */
  enter(request: FastifyRequest): () => void;
}

/** @throws HttpError 404 when no model is called so */
export function findModel(models: readonly ServedModel[], id = models[0]!.id): ServedModel {
  const found = models.find((model) => model.id === id);
  if (found) return found;
  const names = models.map((model) => model.id).join(', ');
  throw new HttpError(404, `there is no model ${id} here; this server has ${names}`, {
    param: 'model',
    code: 'model_not_found',
  });
}

/** A body that comes in. */
export interface BodyReading {
  /** So many bytes more are held. @throws HttpError 429 when all bodies together become too large */
  take(bytes: number): void;
  /** It is read, or will not come. */
  done(): void;
}

/** Requests under way, and whether more are taken. */
export class Doorkeeper {
  readonly #keys: Keys;
  readonly #mostRead: number;
  /** Bytes of bodies that are being read. */
  #reading = 0;
  #active = 0;
  #draining = false;
  #empty = () => {};

  /** @param mostRead bytes of bodies that may be read at the same time */
  constructor(keys: Keys, mostRead: number) {
    this.#keys = keys;
    this.#mostRead = mostRead;
  }

  get active(): number {
    return this.#active;
  }
  get draining(): boolean {
    return this.#draining;
  }

  /** Looks at a request before its body is read. @throws HttpError */
  admit(request: FastifyRequest): void {
    this.#keys.caller(request.headers.authorization);
  }

  /** Counts a body while it is read: what has come of it, not what was announced. */
  readBody(): BodyReading {
    let held = 0;
    let over = false;
    return {
      take: (bytes) => {
        if (over) return;
        if (this.#reading + bytes > this.#mostRead)
          throw new HttpError(429, 'too many large requests come in at once; try again later', {
            code: 'queue_full',
            retryAfter: 1,
          });
        held += bytes;
        this.#reading += bytes;
      },
      done: () => {
        if (!over) this.#reading -= held;
        over = true;
      },
    };
  }

  enter(request: FastifyRequest): () => void {
    if (this.#draining) throw new HttpError(503, 'the server is stopping', { code: 'server_stopping', retryAfter: 10 });
    const leave = this.#keys.enter(this.#keys.caller(request.headers.authorization));
    this.#active++;
    return () => {
      leave();
      if (--this.#active === 0) this.#empty();
    };
  }

  /** From now on nothing new is taken. Resolves when all that was under way has ended, or after a time. */
  async drain(deadlineMs: number): Promise<void> {
    this.#draining = true;
    if (this.#active === 0) return;
    await new Promise<void>((resolve) => {
      const late = setTimeout(resolve, deadlineMs);
      this.#empty = () => {
        clearTimeout(late);
        resolve();
      };
    });
  }
}
