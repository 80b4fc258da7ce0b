/** One process that owns a model, as its parent sees it: a worker of an answer pool, or a server's engine. */
import { type ChildProcess, fork } from 'node:child_process';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { finished, type Readable } from 'node:stream';
import { UserError } from '../errors.ts';
import { MESSAGES_FD, type SentError } from './worker-messages.ts';

/** Messages that say whether the model could be opened; all others are the processes' own. */
type Opening<Opened> = { type: 'opened'; opened: Opened } | { type: 'failed'; error: SentError };

export interface WorkerEvents<From> {
  /** Anything but `opened`. */
  message(message: From): void;
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

export class WorkerProcess<To extends object, From extends { type: string }, Opened> {
  readonly #child: ChildProcess;
  readonly #gone: Promise<void>;
  #closed = false;
  /** Once the model is open. Rejects when it cannot be opened: with the worker's error, or an EndedError when the process ended before. */
  readonly opened: Promise<Opened>;

  /**
   * @param module what the process runs, compiled; it is given this process's id as argument
   * @param open its first message
   */
  constructor(module: URL, open: To, events: WorkerEvents<From>) {
    const child = fork(module, [String(process.pid)], {
      // Weights in pages of 2 MiB are read faster (docs/architecture.md, Memory pages).
      env: { THP_MEM_ALLOC_ENABLE: '1', ...process.env },
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc', 'pipe'],
      execArgv: [],
    });
    this.#child = child;
    living.add(child);
    createInterface({ input: child.stderr! }).on('line', (text) => events.line(text));
    const messages = child.stdio[MESSAGES_FD] as Readable;
    let how = 'it could not be started';
    this.#gone = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        living.delete(child);
        how = signal === null ? `it ended with exit code ${code}` : `it was ended by ${signal}`;
        // Messages that it sent before its end still come, then the ends of both channels.
        const channel = new Promise<void>((ended) => {
          if (child.connected) child.once('disconnect', ended);
          else ended();
        });
        channel.then(() => finished(messages, () => resolve()));
      });
      child.on('error', (error) => {
        if (child.pid !== undefined) return; // a message could not be sent; the end of the process follows
        living.delete(child);
        how = `it could not be started: ${error.message}`;
        resolve();
      });
    });
    this.opened = new Promise((resolve, reject) => {
      let isOpen = false;
      const receive = (message: From | Opening<Opened>) => {
        if (message.type === 'opened') {
          isOpen = true;
          resolve((message as { opened: Opened }).opened);
        } else if (message.type === 'failed' && !isOpen) reject(receivedError((message as { error: SentError }).error));
        else if (!this.#closed) events.message(message as From);
      };
      child.on('message', receive);
      eachLine(messages, (line) => receive(JSON.parse(line)));
      this.#gone.then(() => {
        reject(new EndedError(how));
        if (isOpen && !this.#closed) events.ended(how);
      });
    });
    this.opened.catch(() => {}); // awaited later
    this.send(open);
    this.unref();
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  send(message: To): void {
    // What a process that has ended was sent is asked of another one.
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  /** A process that waits for nothing from its workers may end. */
  unref(): void {
    this.#child.unref();
    this.#child.channel?.unref();
    for (const fd of [2, MESSAGES_FD]) (this.#child.stdio[fd] as Socket).unref();
  }

  ref(): void {
    this.#child.ref();
    this.#child.channel?.ref();
    (this.#child.stdio[MESSAGES_FD] as Socket).ref();
  }

  /** Ends the process, which `ended` then tells. */
  kill(): void {
    this.#child.kill('SIGKILL');
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

/**
 * Lines that are whole: of a process that was killed in the middle of one the rest is dropped. Node's readline would give it, and would also split at
 * separators that JSON leaves in its strings (U+2028).
 */
function eachLine(input: Readable, body: (line: string) => void): void {
  let rest = '';
  input.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop()!;
    for (const line of lines) body(line);
  });
}
