/** One worker process as its parent sees it. */
import { type ChildProcess, fork } from 'node:child_process';
import { createInterface } from 'node:readline';
import { compiledModule } from '../compiled-module.ts';
import { UserError } from '../errors.ts';
import type { FromWorker, OpenedInWorker, SentError, ToWorker, WorkerModel } from './worker-messages.ts';

export interface WorkerEvents {
  /** Anything but `opened`. */
  message(message: FromWorker): void;
  /** A line the worker wrote to its stderr. */
  line(text: string): void;
  /** The process has ended, and everything it sent before has come. Not called after `close`. */
  ended(how: string): void;
}

/** An error of a worker, of the kind that it was there. */
export function receivedError({ message, stack, user }: SentError): Error {
  return user ? new UserError(message) : Object.assign(new Error(message), { stack });
}

/** Workers that live; they end with this process, however it ends. */
const living = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of living) child.kill('SIGKILL');
});

export class WorkerProcess {
  readonly #child: ChildProcess;
  readonly #gone: Promise<void>;
  #closed = false;
  /** Once the model is open. Rejects when it cannot be opened: with the worker's error, or an EndedError when the process ended before. */
  readonly opened: Promise<OpenedInWorker>;

  constructor(model: WorkerModel, index: number, threads: number, events: WorkerEvents) {
    const child = fork(compiledModule('./answer-worker', import.meta.url), [String(process.pid)], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [],
    });
    this.#child = child;
    living.add(child);
    createInterface({ input: child.stderr! }).on('line', (text) => events.line(text));
    let how = 'it could not be started';
    this.#gone = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        living.delete(child);
        how = signal === null ? `it ended with exit code ${code}` : `it was ended by ${signal}`;
        // Messages that it sent before its end still come, then the end of the channel.
        if (child.connected) child.once('disconnect', resolve);
        else resolve();
      });
      child.on('error', (error) => {
        if (child.pid !== undefined) return; // a message could not be sent; the end of the process follows
        living.delete(child);
        how = `it could not be started: ${error.message}`;
        resolve();
      });
    });
    this.opened = new Promise((resolve, reject) => {
      let open = false;
      child.on('message', (message: FromWorker) => {
        if (message.type === 'opened') {
          open = true;
          resolve(message.opened);
        } else if (message.type === 'failed' && !open) reject(receivedError(message.error));
        else if (!this.#closed) events.message(message);
      });
      this.#gone.then(() => {
        reject(new EndedError(how));
        if (open && !this.#closed) events.ended(how);
      });
    });
    this.opened.catch(() => {}); // awaited later
    this.send({ type: 'open', model, index, threads });
    this.unref();
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  send(message: ToWorker): void {
    // What a process that has ended was sent is asked of another one.
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  /** A process that waits for nothing from its workers may end. */
  unref(): void {
    this.#child.unref();
    this.#child.channel?.unref();
    (this.#child.stderr as { unref?(): void } | null)?.unref?.();
  }

  ref(): void {
    this.#child.ref();
    this.#child.channel?.ref();
  }

  /** Ends the process and waits until it is gone. */
  async close(): Promise<void> {
    this.#closed = true;
    this.ref();
    this.#child.kill('SIGKILL');
    await this.#gone;
  }
}

/** A worker process ended before its model was open. */
export class EndedError extends Error {}
