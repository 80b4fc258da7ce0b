/** A place in an answer pool: a worker process, and a new one when it dies. */
import { compiledModule } from '../compiled-module.ts';
import type { AnswerNeeds } from '../engine/answer-memory.ts';
import type { PoolGroup, PoolRun } from './pool-run.ts';
import type { FromWorker, OpenedInWorker, ToWorker, WorkerModel } from './worker-messages.ts';
import { EndedError, receivedError, WorkerProcess } from './worker-process.ts';

type AnswerProcess = WorkerProcess<ToWorker, FromWorker, OpenedInWorker>;

export interface PoolNotes {
  /** Says a line that several workers may write only once. */
  once(line: string): void;
  always(line: string): void;
}

export class PoolWorker {
  /** Processes of a place that may die one after the other without an answer between them; then the place is given up. */
  static readonly attempts = 3;
  readonly #model: WorkerModel;
  readonly #index: number;
  readonly #threads: number;
  readonly #notes: PoolNotes;
  #process: AnswerProcess | null = null;
  #ready = false;
  #closed = false;
  #deaths = 0;
  #run: PoolRun<never> | null = null;
  #room: { resolve(): void; reject(error: Error): void } | null = null;
  /** Groups of the run that it was given and that are not answered, in the order they were given. */
  readonly groups = new Map<number, PoolGroup<never>>();

  constructor(model: WorkerModel, index: number, threads: number, notes: PoolNotes) {
    this.#model = model;
    this.#index = index;
    this.#threads = threads;
    this.#notes = notes;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /** It has opened the model and takes questions. */
  get ready(): boolean {
    return this.#ready;
  }

  /** It will not take questions again. */
  get givenUp(): boolean {
    return this.#deaths >= PoolWorker.attempts;
  }

  /** Questions it was given and has not answered. */
  get questions(): number {
    let count = 0;
    for (const { left } of this.groups.values()) count += left.size;
    return count;
  }

  /** Starts the process, anew when it dies. Null when the place is given up. @throws Error what the process said when it could not open the model */
  async start(): Promise<OpenedInWorker | null> {
    while (!this.givenUp && !this.#closed) {
      const open: ToWorker = { type: 'open', model: this.#model, index: this.#index, threads: this.#threads };
      const process: AnswerProcess = new WorkerProcess(compiledModule('./answer-worker', import.meta.url), open, {
        message: (message) => this.#receive(message),
        line: this.#notes.once,
        ended: (how) => this.#ended(how),
      });
      this.#process = process;
      process.ref();
      try {
        const opened = await process.opened;
        this.#ready = true;
        if (this.#run) this.#begin(this.#run);
        else process.unref();
        return opened;
      } catch (error) {
        if (!(error instanceof EndedError)) throw error;
        if (!this.#closed) this.#died(`${error.message} while it loaded the model`);
      }
    }
    return null;
  }

  /** What it is asked from now on belongs to this run; null when a run has ended. */
  follow(run: PoolRun<never> | null): void {
    this.#run = run;
    this.groups.clear();
    if (!this.#ready) return;
    if (run) this.#begin(run);
    else this.#process!.unref();
  }

  ask(group: PoolGroup<never>): void {
    this.groups.set(group.id, group);
    // All of them, although a process that died may have answered some: they take latent steps from each other.
    this.#process!.send({ type: 'ask', group: group.id, questions: group.sent });
  }

  requireRoom(needs: AnswerNeeds): Promise<void> {
    const answered = new Promise<void>((resolve, reject) => {
      this.#room = { resolve, reject };
    });
    this.#process!.ref();
    this.#process!.send({ type: 'room', needs });
    return answered.finally(() => {
      this.#room = null;
    });
  }

  async close(): Promise<void> {
    this.#ready = false;
    this.#closed = true;
    await this.#process?.close();
  }

  #begin(run: PoolRun<never>): void {
    this.#process!.ref();
    this.#process!.send({ type: 'run', run: run.number, options: run.workerOptions });
    run.wake();
  }

  #receive(message: FromWorker): void {
    if (message.type === 'room') this.#room?.resolve();
    else if (message.type === 'failed') {
      const error = receivedError(message.error);
      if (this.#room) this.#room.reject(error);
      else this.#run?.fail(error);
    } else if (message.type !== 'opened' && message.run === this.#run?.number) {
      this.#deaths = 0;
      this.#run.receive(this, message);
    }
  }

  #ended(how: string): void {
    this.#ready = false;
    this.#died(how);
    this.#room?.resolve(); // the memory that a dead process had is free
    this.start().catch((error) => this.#run?.fail(error));
  }

  #died(how: string): void {
    this.#deaths++;
    const lost = this.questions;
    const again = lost === 0 ? '' : `; ${lost} ${lost === 1 ? 'question is' : 'questions are'} asked again`;
    const end = this.givenUp ? '; it is not started again' : '';
    this.#notes.always(`worker ${this.#index + 1} died: ${how}${again}${end}`);
    const groups = [...this.groups.values()];
    this.groups.clear();
    this.#run?.lost(groups);
  }
}
