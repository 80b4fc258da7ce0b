/** One stream of questions, on its way through the workers of an answer pool. */

import type { Question } from '../engine/ask.ts';
import { UserError } from '../errors.ts';
import type { PoolWorker } from './pool-worker.ts';
import type { FromWorker, PoolAskOptions, PoolEvent, WorkerAskOptions } from './worker-messages.ts';
import { receivedError } from './worker-process.ts';

/** Questions that begin together. */
export interface PoolGroup<Q extends Question> {
  id: number;
  questions: readonly Q[];
  sent: readonly (Question & { seed?: number })[];
  /** Places in `questions` without an answer. */
  left: Set<number>;
  /** Processes that died while they had it. */
  deaths: number;
}

/** Processes that may die of the same questions. */
const MAX_DEATHS = 3;

export class PoolRun<Q extends Question> {
  readonly number: number;
  readonly workerOptions: WorkerAskOptions;
  readonly #workers: readonly PoolWorker[];
  readonly #seed: PoolAskOptions<Q>['seed'];
  /** Questions a worker may have at once: those it answers, and some that it begins as soon as it has room. */
  readonly #most: number;
  readonly #happened: PoolEvent<Q>[] = [];
  /** Groups of dead processes; they go before all others. */
  readonly #again: PoolGroup<Q>[] = [];
  #next: PoolGroup<Q> | null = null;
  #ended = false;
  #failure: unknown = null;
  #wake = () => {};
  #awake = false;

  constructor(workers: readonly PoolWorker[], number: number, { seed, ...options }: PoolAskOptions<Q>) {
    this.number = number;
    this.workerOptions = options;
    this.#workers = workers;
    this.#seed = seed;
    const { rows = 1 } = options;
    this.#most = rows + Math.ceil(rows / 2);
  }

  async *events(groups: AsyncIterable<readonly Q[]> | Iterable<readonly Q[]>): AsyncGenerator<PoolEvent<Q>, void> {
    for (const worker of this.#workers) worker.follow(this as never);
    const stream = iterate(groups);
    let reading = false;
    let ids = 0;
    try {
      for (;;) {
        for (let event = this.#happened.shift(); event; event = this.#happened.shift()) yield event;
        if (this.#failure !== null) throw this.#failure;
        if (this.#handOut()) continue;
        if (!this.#next && !this.#ended && !reading) {
          reading = true;
          stream
            .next()
            .then(({ done, value }) => {
              reading = false;
              if (done) this.#ended = true;
              else this.#next = this.#group(ids++, value);
              this.wake();
            })
            .catch((error: unknown) => this.fail(error));
        }
        const open =
          this.#next !== null || this.#again.length > 0 || this.#workers.some(({ groups }) => groups.size > 0);
        if (this.#ended && !open) return;
        if (this.#workers.every(({ givenUp }) => givenUp))
          throw new UserError(
            'every worker process has died several times; memory may be short: try fewer --processes or a smaller --batch',
          );
        await this.#woken();
      }
    } finally {
      for (const worker of this.#workers) worker.follow(null);
      // A source that is being read cannot be ended; it is not read on.
      if (!reading) await stream.return?.(undefined as never);
    }
  }

  receive(worker: PoolWorker, message: Extract<FromWorker, { type: 'end' | 'error' }>): void {
    const group = worker.groups.get(message.group) as PoolGroup<Q> | undefined;
    if (!group?.left.has(message.at)) return;
    const question = group.questions[message.at]!;
    group.left.delete(message.at);
    if (group.left.size === 0) worker.groups.delete(group.id);
    if (message.type === 'end') this.#happened.push({ type: 'end', question, answer: message.answer });
    else {
      const error = receivedError(message.error);
      if (error instanceof UserError) this.#happened.push({ type: 'error', question, error });
      else this.fail(error);
    }
    this.wake();
  }

  /** Of a process that died. */
  lost(groups: readonly PoolGroup<Q>[]): void {
    for (const group of groups) group.deaths++;
    const fatal = groups.filter(({ deaths }) => deaths >= MAX_DEATHS);
    if (fatal.length > 0) {
      const names = fatal.flatMap(({ questions, left }) => [...left].map((at) => nameOf(questions[at]!)));
      this.fail(
        new UserError(
          `${MAX_DEATHS} processes died while they answered ${names.slice(0, 10).join(', ')}${names.length > 10 ? ` and ${names.length - 10} more` : ''}; memory may be short: try a smaller --batch or fewer --processes`,
        ),
      );
    }
    this.#again.push(...groups);
    this.wake();
  }

  fail(error: unknown): void {
    this.#failure ??= error;
    this.wake();
  }

  wake(): void {
    this.#awake = true;
    this.#wake();
  }

  async #woken(): Promise<void> {
    if (!this.#awake)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    this.#awake = false;
  }

  /** Null when an image cannot be read, which happens only now where the bytes are those of a file. */
  #group(id: number, questions: readonly Q[]): PoolGroup<Q> | null {
    try {
      const sent = questions.map((whole) => {
        const { images, question, choices } = whole;
        const seed = this.#seed?.(whole);
        const plain = images.map((image) =>
          image.kind === 'encoded' ? { kind: image.kind, name: image.name, bytes: image.bytes } : image,
        );
        return { images: plain, question, choices, ...(seed !== undefined && { seed }) };
      });
      return { id, questions, sent, left: new Set(questions.keys()), deaths: 0 };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      for (const question of questions) this.#happened.push({ type: 'error', question, error });
      return null;
    }
  }

  /** Gives the next group to the worker with the fewest questions. False when there is none, or no worker has room. */
  #handOut(): boolean {
    const group = this.#again[0] ?? this.#next;
    const worker = group && this.#workerFor(group);
    if (!worker) return false;
    if (group === this.#again[0]) this.#again.shift();
    else this.#next = null;
    worker.ask(group as PoolGroup<never>);
    return true;
  }

  /** What two processes have died of is answered by itself, so that only the question that is to blame takes the third one down. */
  #workerFor(group: PoolGroup<Q>): PoolWorker | null {
    const isSuspect = ({ deaths }: { deaths: number }) => deaths >= MAX_DEATHS - 1;
    const suited = this.#workers.filter(
      (worker) =>
        worker.ready &&
        (isSuspect(group) ? worker.groups.size === 0 : worker.questions < this.#most) &&
        ![...worker.groups.values()].some(isSuspect),
    );
    const [first, ...others] = suited;
    if (!first) return null;
    return others.reduce((best, worker) => (worker.questions < best.questions ? worker : best), first);
  }
}

function nameOf(question: Question & { sample?: { id?: string }; index?: number }): string {
  return question.sample?.id ?? JSON.stringify(question.question.slice(0, 60));
}

function iterate<T>(items: AsyncIterable<T> | Iterable<T>): AsyncIterator<T> {
  return (async function* () {
    yield* items;
  })();
}
