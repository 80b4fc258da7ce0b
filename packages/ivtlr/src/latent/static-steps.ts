/**
 * Passes in which all rows run equally many positions and none a prompt: tokens, and latent steps. On a GPU the time of such a pass would go by with
 * starting its many small pieces of work, so each is recorded once for a bucket of slots and columns, and later given to the GPU in one call, after
 * its inputs were copied into place. All other passes run the ordinary way, over the same cache.
 * Shapes: R positions of a pass, b rows of it, n slots of a bucket, S new positions of each, T columns read, I width of an input row, V vocabulary.
 */
import { argmaxLast, keep, scope, type Tensor, TorchError, zeros } from '@ivtlr/torch';
import { indexTensor } from '../models/common/index-tensor.ts';
import { type SlotCache, SPARE_COLUMNS } from '../models/common/slot-cache.ts';
import type { RowGroup, RowsForwardOptions, RowsForwardResult, VisionLanguageModel } from '../models/types.ts';
import { CudaStepGraphs, type StepGraph, type StepGraphs } from './step-graph.ts';

/** `auto`: recorded passes on a GPU; `off`: never. Anything else is what records them. */
export type GraphsOption = 'auto' | 'off' | StepGraphs;

/** The columns that a recorded pass reads are a power of two times so many, or all. */
const LEAST_COLUMNS = 256;

/** Recorded passes that are kept; behind them the one that was used the longest ago makes room. */
const MOST_STEPS = 128;

/** Which recorded pass serves a group. */
interface Bucket {
  /** First slot, and how many. */
  start: number;
  slots: number;
  columns: number;
  size: number;
  scores: boolean;
}

/** A recorded pass, and the memory that it reads and writes. */
interface RecordedStep {
  graph: StepGraph;
  /** (n, S, I) */
  inputs: Tensor;
  /** (n, S) int64 */
  positions: Tensor;
  /** (n) int64, see SlotsForwardOptions. */
  lengths: Tensor;
  /** (n, S, D) */
  hidden: Tensor;
  /** (n, T) float32, where they are wanted. */
  scores: Tensor | null;
  /** Where text may follow: of the last positions. */
  next: NextTokens | null;
}

export interface NextTokens {
  /** (b, V) */
  logits: Tensor;
  /** (b) int64: the highest logit of each row. */
  tokens: Tensor;
}

export interface StepResult extends RowsForwardResult {
  /** Of the last position of every row, in the order of the pass; null where they were not computed with it. */
  next: NextTokens | null;
}

export class StaticSteps {
  readonly #model: VisionLanguageModel;
  readonly #tell: (line: string) => void;
  #graphs: StepGraphs | null;
  readonly #steps = new Map<string, RecordedStep>();
  /** How often buckets came that are not recorded yet. */
  readonly #seen = new Map<string, number>();
  /** Of the cache whose memory the recorded passes use. */
  #cache: SlotCache | null = null;
  #generation = 0;

  /** @param tell is given one line when passes cannot be recorded, and run the ordinary way from then on */
  constructor(model: VisionLanguageModel, graphs: GraphsOption = 'auto', tell: (line: string) => void = toStderr) {
    this.#model = model;
    this.#tell = tell;
    if (typeof graphs !== 'string') this.#graphs = graphs;
    else {
      const [kind, index = '0'] = model.device.split(':');
      this.#graphs = graphs === 'auto' && kind === 'cuda' ? new CudaStepGraphs(Number(index)) : null;
    }
  }

  /** Columns of a slot that no row can fill. */
  get spareColumns(): number {
    return this.#graphs ? SPARE_COLUMNS : 0;
  }

  /** A cache that recorded passes can use, if there will be any. */
  newSlotCache(slots: number, positions: number): SlotCache {
    return this.#model.newSlotCache(slots, positions, { spare: this.#graphs !== null });
  }

  /** What VisionLanguageModel.forwardRows gives, by a recorded pass where one serves. Results are the caller's. Call inside a scope and inference mode. */
  forwardRows(inputs_1RI: Tensor, options: RowsForwardOptions): StepResult {
    const [group] = options.groups as [RowGroup];
    if (this.#graphs && options.groups.length === 1 && !group.prompt && !group.hidden && options.cache.hasSpare) {
      try {
        const bucket = bucketOf(group, options.cache);
        const step = this.#stepOf(bucket, options.cache);
        if (step) return this.#run(step, bucket, inputs_1RI, options);
      } catch (error) {
        if (!(error instanceof TorchError)) throw error;
        // Nothing was changed that the ordinary pass does not write again.
        this.#forget();
        this.#graphs = null;
        this.#tell(`passes cannot be recorded as graphs and run one operator after the other: ${error.message}`);
      }
    }
    return { ...this.#model.forwardRows(inputs_1RI, options), next: null };
  }

  #run(step: RecordedStep, bucket: Bucket, inputs_1RI: Tensor, options: RowsForwardOptions): StepResult {
    const { positions, cache, groups } = options;
    const { slots } = groups[0]!;
    const { start, slots: n, columns, size } = bucket;
    const b = slots.length;
    const source = new Array<number>(n).fill(0);
    const lengths = new Array<number>(n).fill(-columns);
    slots.forEach((slot, i) => {
      source[slot - start] = i;
      lengths[slot - start] = cache.length(slot);
    });
    const own = slots.map((slot) => slot - start);
    const sent = indexTensor([...lengths, ...source, ...own], inputs_1RI.device);
    step.lengths.copy_(sent.narrow(0, 0, n));
    // Slots that take no part get the inputs of the first row that does.
    const spread = (rows: Tensor) => (b === n ? rows : rows.indexSelect(0, sent.narrow(0, n, n)));
    step.inputs.copy_(spread(inputs_1RI.view([b, size, inputs_1RI.shape[2]!])));
    step.positions.copy_(spread(positions.select(0, 0).reshape([b, size])));
    step.graph.replay();
    // Copies, since the next pass writes into the same memory.
    const picked = (rows: Tensor) => rows.indexSelect(0, sent.narrow(0, 2 * n, b));
    const hidden = picked(step.hidden);
    const result = {
      hidden: hidden.view([1, b * size, hidden.shape[2]!]),
      scores: step.scores ? [picked(step.scores)] : [],
      next: step.next && { logits: picked(step.next.logits), tokens: picked(step.next.tokens) },
    };
    cache.advance(slots, size);
    return result;
  }

  /** Null for a bucket that is not to be recorded yet. */
  #stepOf(bucket: Bucket, cache: SlotCache): RecordedStep | null {
    cache.prepare(bucket.columns);
    if (cache !== this.#cache || cache.generation !== this.#generation) {
      this.#forget();
      this.#cache = cache;
      this.#generation = cache.generation;
    }
    const key = Object.values(bucket).join(' ');
    const known = this.#steps.get(key);
    if (known) {
      this.#steps.delete(key);
      this.#steps.set(key, known); // the one used last stands last
      return known;
    }
    const seen = this.#seen.get(key) ?? 0;
    if (seen < this.#graphs!.ordinaryFirst) {
      this.#seen.set(key, seen + 1);
      return null;
    }
    const made = this.#record(bucket, cache);
    this.#steps.set(key, made);
    if (this.#steps.size > MOST_STEPS) {
      const [oldest, step] = this.#steps.entries().next().value!;
      this.#steps.delete(oldest);
      this.#seen.delete(oldest);
      free(step);
    }
    return made;
  }

  #record({ start, slots: n, columns, size, scores }: Bucket, cache: SlotCache): RecordedStep {
    const model = this.#model;
    const { dtype, device } = model;
    const [pool] = [...this.#steps.values()].map(({ graph }) => graph);
    const make = (shape: number[], of = dtype) => keep(zeros(shape, { dtype: of, device }));
    const graph = this.#graphs!.newGraph(pool ?? null);
    const step: RecordedStep = {
      graph,
      inputs: make([n, size, model.inputSize]),
      positions: make([n, size], 'int64'),
      lengths: make([n], 'int64').fill_(-columns),
      hidden: make([n, size, model.hiddenSize]),
      scores: scores ? make([n, columns], dtype === 'float64' ? dtype : 'float32') : null,
      // The last latent step wants no scores, and text follows it.
      next: size > 1 && scores ? null : { logits: make([n, model.vocabularySize]), tokens: make([n], 'int64') },
    };
    const body = () =>
      scope(() => {
        const { inputs, positions, lengths } = step;
        const result = model.forwardSlots(inputs, { cache, start, columns, lengths, positions, scores });
        step.hidden.copy_(result.hidden);
        if (result.scores) step.scores!.copy_(result.scores);
        if (!step.next) return;
        const logits = model.logits(result.hidden.select(1, size - 1));
        step.next.logits.copy_(logits);
        step.next.tokens.copy_(argmaxLast(logits));
      });
    try {
      // No slot takes part yet, so that nothing but spare columns is written.
      this.#graphs!.warmUp(body);
      graph.capture(body);
    } catch (error) {
      free(step);
      throw error;
    }
    return step;
  }

  #forget(): void {
    for (const step of this.#steps.values()) free(step);
    this.#steps.clear();
    this.#cache = null;
  }

  dispose(): void {
    this.#forget();
  }
}

/** The smallest power of two of slots, beginning at a multiple of itself, that holds a group; its columns likewise. */
function bucketOf({ slots, size, scores }: RowGroup, cache: SlotCache): Bucket {
  const [first, last] = [Math.min(...slots), Math.max(...slots)];
  let width = 1;
  while (Math.floor(first / width) !== Math.floor(last / width)) width *= 2;
  const start = Math.floor(first / width) * width;
  const longest = Math.max(...slots.map((slot) => cache.length(slot))) + size;
  let columns = LEAST_COLUMNS;
  while (columns < longest) columns *= 2;
  return {
    start,
    slots: Math.min(width, cache.slots - start),
    columns: Math.min(columns, cache.capacity),
    size,
    scores,
  };
}

function free({ graph, next, ...tensors }: RecordedStep): void {
  graph[Symbol.dispose]();
  for (const tensor of [...Object.values(tensors), next?.logits, next?.tokens]) tensor?.dispose();
}

function toStderr(line: string): void {
  process.stderr.write(`${line}\n`);
}
