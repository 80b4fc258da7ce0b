/**
 * Checkpoints written while training goes on. What a checkpoint holds is copied by a thread while the loop works out the next gradients (`start` to
 * `copied`). Another thread then writes the copies into a partial folder, and once all processes have written theirs, the first one makes that folder
 * the latest checkpoint. Every step of it can be cut off: the checkpoint before stays in force, and the next start removes the rest.
 *
 * At a checkpoint: `const memory = await writer.begin()`, copies of what changes into `memory`, `writer.start(step, files)`; before anything of it
 * changes `writer.copied()`. After every step `writer.poll()`; at the end `await writer.finish()`.
 */
import { setTimeout } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { HostMemory } from '@ivtlr/torch';
import { compiledModule } from '../compiled-module.ts';
import { UserError } from '../errors.ts';
import { type FileContent, type FrozenFile, freezeFiles } from '../file-contents.ts';
import { makeFolder } from '../files.ts';
import { checkpointFolder, checkpointRoot } from './checkpoint-names.ts';
import type { WriteJob, WriteResult } from './write-thread.ts';

/** How the processes of a run tell each other how far a checkpoint is. Neither call waits. */
export interface CheckpointPeers {
  readonly rank: number;
  readonly world: number;
  /** This process has its own files of the checkpoint on the disk. Called once a checkpoint, on every rank. */
  written(step: number): void;
  /** This process could not write them; the others hear why. */
  failed(step: number, message: string): void;
  /** On rank 0, after its own `written`: whether every rank has called `written`. @throws UserError when a rank never will, or it takes too long */
  allWritten(step: number): boolean;
}

const ALONE: CheckpointPeers = { rank: 0, world: 1, written: () => {}, failed: () => {}, allWritten: () => true };

interface Pending {
  step: number;
  folder: string;
  /** What is copied before it is written, in the phase `copying`. */
  files: FrozenFile[];
  /** What the thread does: copying (none), this process's files, then waiting for the others' (no thread), then completing the folder. */
  phase: 'copying' | 'writing' | 'waiting' | 'completing';
  /** The thread's answer, once it is there. */
  result: WriteResult | undefined;
  thread: Promise<void>;
}

export class CheckpointWriter {
  readonly #out: string;
  readonly #keep: number;
  readonly #peers: CheckpointPeers;
  readonly #memory = new HostMemory();
  #pending: Pending | null = null;
  #latest: string | null;

  /**
   * @param keep how many checkpoints stay
   * @param latest folder of the checkpoint in force, if there is one
   */
  constructor(out: string, keep: number, latest: string | null = null, peers: CheckpointPeers = ALONE) {
    this.#out = out;
    this.#keep = keep;
    this.#latest = latest;
    this.#peers = peers;
  }

  /** Folder of the checkpoint in force, on ranks other than 0 of the last one whose own files are written; null before the first. */
  get latest(): string | null {
    return this.#latest;
  }

  /** Waits until the checkpoint before is complete, whose memory is then free for the next. @throws UserError as `poll` */
  async begin(): Promise<HostMemory> {
    await this.finish();
    this.#memory.reuse();
    return this.#memory;
  }

  /**
   * Starts to copy the files of this process as they are now, to write them after that. Nothing they hold may change before `copied`.
   * @param files tensors are live ones, or copies made in the memory that `begin` gave; ranks other than 0 have other names
   */
  start(step: number, files: readonly FileContent[]): void {
    if (this.#pending) throw new Error('CheckpointWriter: start without begin');
    makeFolder(checkpointRoot(this.#out));
    const folder = checkpointFolder(this.#out, step);
    const frozen = freezeFiles(files, this.#memory);
    this.#memory.startCopies();
    const thread = Promise.resolve();
    this.#pending = { step, folder, files: frozen, phase: 'copying', result: undefined, thread };
  }

  /** Waits until what `start` was given is copied, so that it may change, and has it written. */
  copied(): void {
    if (this.#pending?.phase !== 'copying') return;
    const { step, folder, files } = this.#pending;
    this.#memory.finishCopies();
    this.#pending = this.#run({ kind: 'write', folder, files }, step, folder, 'writing');
  }

  /** Looks how far the checkpoint is, and moves it on; never waits. @throws UserError once, when it could not be written */
  poll(): void {
    if (this.#pending?.phase === 'copying' && this.#memory.copiesMade) this.copied();
    const pending = this.#pending;
    if (!pending || pending.phase === 'copying') return;
    const { step, folder } = pending;
    try {
      if (pending.phase !== 'waiting') {
        if (pending.result === undefined) return;
        if (pending.result !== null) {
          const message = `cannot write the checkpoint ${folder}: ${pending.result}`;
          this.#peers.failed(step, message);
          throw new UserError(message);
        }
      }
      if (pending.phase === 'writing') {
        pending.phase = 'waiting';
        this.#peers.written(step);
      }
      if (pending.phase === 'waiting' && this.#peers.rank === 0) {
        if (!this.#peers.allWritten(step)) return;
        this.#pending = this.#run({ kind: 'complete', folder, keep: this.#keep }, step, folder, 'completing');
        return;
      }
      this.#latest = folder;
      this.#pending = null;
    } catch (error) {
      this.#pending = null;
      throw error;
    }
  }

  /** Waits until the started checkpoint is complete, on ranks other than 0 until their own files are written. @throws UserError as `poll` */
  async finish(): Promise<void> {
    this.copied();
    for (this.poll(); this.#pending; this.poll()) {
      if (this.#pending.phase === 'waiting') await setTimeout(10);
      else await this.#pending.thread;
    }
  }

  /** After an error elsewhere: completes what does not depend on other processes any more, and throws nothing. */
  async close(): Promise<void> {
    try {
      this.copied();
      for (this.poll(); this.#pending && this.#pending.phase !== 'waiting'; this.poll()) await this.#pending.thread;
    } catch {
      // The error that came first is the one to tell.
    }
  }

  #run(job: WriteJob, step: number, folder: string, phase: Pending['phase']): Pending {
    const worker = new Worker(compiledModule('./write-thread', import.meta.url), { workerData: job, execArgv: [] });
    const pending: Pending = { step, folder, files: [], phase, result: undefined, thread: Promise.resolve() };
    let result: WriteResult = 'the thread that writes it ended';
    worker.on('message', (message: WriteResult) => {
      result = message;
    });
    worker.on('error', (error: Error) => {
      result = error.message;
    });
    pending.thread = new Promise((resolve) => {
      worker.on('exit', () => {
        pending.result = result;
        resolve();
      });
    });
    return pending;
  }
}
