/**
 * Questions answered by several processes, each with the whole model. The process that asks reads no weights; it hands questions out one by one
 * to whoever has the fewest, so that all are busy to the end, and gives what a process that died had in hand to another one.
 * Processes and not threads: each has its own libtorch with its own threads and device, and none can take the others down.
 */
import { availableParallelism } from 'node:os';
import type { RenderOptions } from '../data/render.ts';
import type { AnswerNeeds } from '../engine/answer-memory.ts';
import type { Question } from '../engine/ask.ts';
import { openWithoutWeights } from '../engine/folder-rendering.ts';
import type { ReasoningSettings } from '../engine/loaded-model.ts';
import { UserError } from '../errors.ts';
import type { ImageInputs } from '../models/types.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { PoolRun } from './pool-run.ts';
import { PoolWorker } from './pool-worker.ts';
import type { PoolAskOptions, PoolEvent, WorkerModel } from './worker-messages.ts';

export interface AnswerPoolOptions {
  /** Processes; each holds the whole model. */
  processes: number;
  model: WorkerModel;
  /** CPU threads of each; default: an equal share of the machine's. */
  threads?: number | undefined;
  /** Told, in one line each, of processes that died and of what processes write to their stderr. */
  note(line: string): void;
  /** Told in one line what a device `auto` has become. */
  deviceNote?(line: string): void;
}

/** What a LoadedModel says without its weights, and `ask`. */
export class AnswerPool {
  readonly settings: ReasoningSettings;
  readonly tokenizer: Tokenizer;
  readonly inputs: ImageInputs;
  readonly renderOptions: (task: string) => RenderOptions;
  /** Of the model. */
  readonly maxPositions: number;
  /** Where tokenizer and configuration come from: the base's folder for an adapter. */
  readonly folder: string;
  /** `cpu` or a GPU; with several GPUs that of the first process. */
  readonly device: string;
  readonly #workers: readonly PoolWorker[];
  #runs = 0;

  /**
   * Starts the processes and waits until each has opened the model.
   * @throws UserError what opening the model in this process would throw
   */
  static async open(options: AnswerPoolOptions): Promise<AnswerPool> {
    const { processes, model, deviceNote } = options;
    const threads = options.threads ?? Math.max(1, Math.floor(availableParallelism() / processes));
    const told = new Set<string>();
    const once = (tell: (line: string) => void) => (line: string) => {
      if (told.has(line)) return;
      if (told.size < MAX_TOLD) told.add(line);
      tell(line);
    };
    const note = { once: once(options.note), always: options.note };
    const workers = Array.from({ length: processes }, (_, index) => new PoolWorker(model, index, threads, note));
    try {
      const opened = await Promise.all(workers.map((worker) => worker.start()));
      const first = opened.find((info) => info !== null);
      if (!first) throw new UserError(`${PoolWorker.attempts} processes in a row died while they loaded the model`);
      const tell = once((line) => deviceNote?.(line));
      for (const info of opened) if (info?.deviceNote) tell(info.deviceNote);
      return new AnswerPool(workers, { ...first, ...openWithoutWeights(first.folder, first.settings) });
    } catch (error) {
      await Promise.all(workers.map((worker) => worker.close()));
      throw error;
    }
  }

  private constructor(
    workers: readonly PoolWorker[],
    opened: Pick<
      AnswerPool,
      'folder' | 'settings' | 'tokenizer' | 'inputs' | 'renderOptions' | 'maxPositions' | 'device'
    >,
  ) {
    this.#workers = workers;
    this.folder = opened.folder;
    this.settings = opened.settings;
    this.tokenizer = opened.tokenizer;
    this.inputs = opened.inputs;
    this.renderOptions = opened.renderOptions;
    this.maxPositions = opened.maxPositions;
    this.device = opened.device;
  }

  /** Process ids of the workers that live. */
  get pids(): number[] {
    return this.#workers.flatMap(({ pid }) => pid ?? []);
  }

  /**
   * As `ask`, with `rows` questions at a time in each process; of its events `end` and `error` come, in the order in which they happen. Answers are
   * those of one process: they depend neither on the process nor on the other questions (in float32). One run at a time.
   * @param groups questions that begin together in one process, as swapped latent steps need it
   * @throws UserError for questions that three processes in a row died of, and when no process is left
   */
  ask<Q extends Question>(
    groups: AsyncIterable<readonly Q[]> | Iterable<readonly Q[]>,
    options: PoolAskOptions<Q>,
  ): AsyncGenerator<PoolEvent<Q>, void> {
    return new PoolRun<Q>(this.#workers, ++this.#runs, options).events(groups);
  }

  /** @throws UserError when the machine has not the memory for so many answers at a time, those of all processes together */
  async requireRoom(needs: AnswerNeeds): Promise<void> {
    await this.#workers.find(({ ready }) => ready)!.requireRoom(needs);
  }

  /** Ends the processes. */
  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.close()));
  }
}

/** Different lines of the workers' stderr that are remembered, to be told once. */
const MAX_TOLD = 1000;
