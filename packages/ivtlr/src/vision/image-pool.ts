/**
 * Images decoded and resized in worker threads, so that the thread that trains never does it. Threads and not processes: results move without
 * a copy and a thread costs a few megabytes. libtorch is not loaded there; tensors are made where they are used.
 */
import { Worker } from 'node:worker_threads';
import { compiledModule } from '../compiled-module.ts';
import { UserError } from '../errors.ts';
import type { ImageSource, RawImage, RgbImage } from './image.ts';
import { tellNote } from './notes.ts';

/** An image in the size its model takes. */
export interface PreparedImage {
  image: RgbImage;
  /** The whole picture at another size, where a model sees it twice. */
  whole?: RgbImage | undefined;
  source: ImageSource;
  /** What the user should know about how it was read. */
  note?: string | undefined;
}

/** How a model family prepares images, in a form that can be sent to a thread. */
export interface Preparation {
  /** Compiled module with `prepareImage(image: RawImage, rules): Promise<PreparedImage>`. It must not load libtorch. */
  module: URL;
  /** Plain data. */
  rules: unknown;
}

/** @internal Thread and owner speak this. */
export interface ImageJob {
  id: number;
  image: RawImage;
}

/** @internal */
export type ImageResult = { id: number } & (
  | { prepared: PreparedImage }
  | { message: string; user: boolean; stack?: string | undefined }
);

interface Pending {
  image: RawImage;
  resolve(prepared: PreparedImage): void;
  reject(error: unknown): void;
}

export class ImagePool {
  readonly #threads: ImageThread[];
  #closed = false;

  /** @param threads default 2: about what a trainer on the same processor leaves free. */
  constructor(preparation: Preparation, threads = 2) {
    this.#threads = Array.from({ length: threads }, () => new ImageThread(preparation));
  }

  get threads(): number {
    return this.#threads.length;
  }

  /**
   * Queues an image. All of the queue lies with the threads, which go on while this thread is busy; who calls bounds it.
   * @throws UserError naming the image when it cannot be decoded.
   */
  prepare(image: RawImage): Promise<PreparedImage> {
    if (this.#closed) return Promise.reject(new Error('the pool of image threads is closed'));
    const idlest = this.#threads.reduce((best, thread) => (thread.waiting < best.waiting ? thread : best));
    return idlest.prepare(image);
  }

  /** Stops the threads. Images still waiting are rejected. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#threads.map((thread) => thread.close()));
  }
}

/** One thread, started when it is needed, and again after it died. Its jobs are done in order. */
class ImageThread {
  readonly #preparation: Preparation;
  readonly #pending = new Map<number, Pending>();
  #worker: Worker | null = null;
  #nextId = 0;

  constructor(preparation: Preparation) {
    this.#preparation = preparation;
  }

  get waiting(): number {
    return this.#pending.size;
  }

  prepare(image: RawImage): Promise<PreparedImage> {
    return new Promise((resolve, reject) => this.#send({ image, resolve, reject }));
  }

  async close(): Promise<void> {
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of waiting) reject(new Error('the pool of image threads was closed'));
    const worker = this.#worker;
    this.#worker = null;
    await worker?.terminate();
  }

  #send(pending: Pending): void {
    const { image } = pending;
    let job: ImageJob;
    try {
      // Bytes may be read from a file only now, and fail.
      const plain = image.kind === 'encoded' ? { kind: image.kind, name: image.name, bytes: image.bytes } : image;
      job = { id: this.#nextId++, image: plain };
    } catch (error) {
      pending.reject(error);
      return;
    }
    this.#worker ??= this.#start();
    this.#pending.set(job.id, pending);
    // A waiting image keeps the program alive, an idle thread does not.
    this.#worker.ref();
    this.#worker.postMessage(job);
  }

  #start(): Worker {
    const { module, rules } = this.#preparation;
    const worker = new Worker(compiledModule('./image-worker', import.meta.url), {
      workerData: { module: module.href, rules },
      execArgv: [],
    });
    let cause = 'it ended';
    worker.on('message', (result: ImageResult) => this.#settle(worker, result));
    worker.on('error', (error: Error) => {
      cause = error.message;
    });
    worker.on('exit', () => this.#restart(worker, cause));
    return worker;
  }

  #settle(worker: Worker, result: ImageResult): void {
    const pending = this.#pending.get(result.id);
    if (!pending) return;
    this.#pending.delete(result.id);
    if (this.#pending.size === 0) worker.unref();
    if ('prepared' in result) {
      tellNote(result.prepared.note);
      pending.resolve(result.prepared);
    } else if (result.user) pending.reject(new UserError(result.message));
    else pending.reject(Object.assign(new Error(result.message), { stack: result.stack }));
  }

  /** A thread that died did so at its first waiting image; the others get a new thread. */
  #restart(worker: Worker, cause: string): void {
    if (this.#worker !== worker) return;
    this.#worker = null;
    const [first, ...others] = [...this.#pending.values()];
    this.#pending.clear();
    if (!first) return;
    const name = first.image.kind === 'encoded' ? first.image.name : 'a drawn image';
    first.reject(new UserError(`${name}: the thread that prepared it stopped: ${cause}`));
    for (const pending of others) this.#send(pending);
  }
}
