/**
 * Latent reasoning at inference, row by row: rows join at any step, every pass runs whatever each of them has to run (a piece of its prompt, the
 * rows of a latent step, one token), and rows leave when they end. Each is as it would be alone.
 * Shapes: D hidden size, n rows, T columns.
 */
import { cat, inferenceMode, keep, scope, type Tensor } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import type { SlotCache } from '../models/common/slot-cache.ts';
import type { VisionLanguageModel } from '../models/types.ts';
import { embedRows } from './embed-rows.ts';
import { atColumns } from './image-columns.ts';
import { ImagesAhead } from './images-ahead.ts';
import { KeptParts } from './kept-prefixes.ts';
import type { TokenLogprobs } from './next-token.ts';
import { readTogether } from './read-together.ts';
import { joinRings, Row, type RowRequest } from './row.ts';
import { describeGroup, passIndices, planPass } from './row-pass.ts';
import { insertedRows, latentVision, type Picked, type PickRow, pickImageTokens, planPicks } from './select.ts';
import { type GraphsOption, StaticSteps } from './static-steps.ts';
import type { StepTrace } from './trace.ts';
import { type Ready, type UnreadTokens, writeTokens } from './write-tokens.ts';

export type RowEvent =
  /** `trace` is null unless the row asked for traces. */
  | { type: 'latent-step'; row: Row; step: number; picked: number[]; trace: StepTrace | null }
  /** `logprobs` is null unless the row asked for them. */
  | { type: 'token'; row: Row; id: number; logprobs: TokenLogprobs | null; trace: StepTrace | null }
  /** The row has left the batch: at an end-of-text token, or at its limit of new tokens. */
  | { type: 'end'; row: Row; reason: 'eos' | 'length' }
  /** The row has left the batch; the others go on. */
  | { type: 'error'; row: Row; error: UserError };

export interface RowBatchOptions {
  /** Slots and positions the cache has room for at first; it grows when more is needed. */
  slots?: number;
  capacity?: number;
  /** Whether passes of tokens and latent steps are recorded once and given to a GPU in one call; default: on a GPU. See static-steps.ts. */
  graphs?: GraphsOption;
  /**
   * Whether a token is read only when the next pass has been given to the device, so that neither waits for the other; events come one pass later, and
   * the pass of a row that turns out to have ended is dropped. Default: on a GPU.
   */
  readLate?: boolean;
  /** Prompt tokens of a pass: longer prompts run in pieces, and one after the other, so that rows that write need not wait for all of them. */
  pieceTokens?: number;
  /** Bytes of picture embeddings that are kept for later rows of the same picture, which then also take over the beginning of its prompt. Default 0: nothing is. */
  keptImageBytes?: number;
}

const NOTHING: Picked = { indices: [], index: null };

export class RowBatch {
  readonly #model: VisionLanguageModel;
  readonly #options: RowBatchOptions;
  readonly #steps: StaticSteps;
  #cache: SlotCache | null = null;
  readonly #rows = new Set<Row>();
  readonly #events: RowEvent[] = [];
  readonly #kept: KeptParts | null;
  readonly #ahead: ImagesAhead;
  /** Of the piece of the next pass, what pictures have taken. */
  #spent = 0;
  readonly #readsLate: boolean;
  #unread: UnreadTokens | null = null;

  constructor(model: VisionLanguageModel, options: RowBatchOptions = {}) {
    this.#model = model;
    this.#options = options;
    this.#readsLate = options.readLate ?? model.device !== 'cpu';
    this.#steps = new StaticSteps(model, options.graphs);
    this.#ahead = new ImagesAhead(model);
    this.#kept = options.keptImageBytes ? new KeptParts(options.keptImageBytes) : null;
  }

  /** Rows on their way. */
  get size(): number {
    return this.#rows.size;
  }

  /** What pictures have left of the piece of the next pass, at least a token. */
  get #pieceLeft(): number {
    return Math.max(1, Math.floor((this.#options.pieceTokens ?? Number.POSITIVE_INFINITY) - this.#spent));
  }

  /** Bytes of the cache. */
  get cacheBytes(): number {
    return this.#cache?.bytes ?? 0;
  }

  /** Columns of each slot that no row fills. */
  get spareColumns(): number {
    return this.#steps.spareColumns;
  }

  /** Makes the cache anew with room for so many rows and positions. Only while no row is on its way. */
  reserve(slots: number, positions: number): void {
    if (this.#rows.size > 0) throw new RangeError('the cache cannot be made anew while rows are in it');
    this.#cache?.dispose();
    this.#kept?.forgetSlots();
    this.#cache = this.#newCache(slots, positions);
  }

  /**
   * Takes rows in; their images are read here and may be freed afterwards. Rows whose latent steps are swapped take them from the row before
   * them in this list (the first from the last), so they are added together.
   * @throws RangeError for swapped rows that have no partner or take different numbers of latent steps
   */
  add(requests: readonly RowRequest[]): Row[] {
    const rows = requests.map((request) => new Row(request, this.#model.imageTokenId));
    joinRings(rows);
    try {
      inferenceMode(() => scope(() => embedRows(this.#model, rows, this.#kept?.images, this.#ahead)));
      for (const row of rows) {
        this.#cache ??= this.#newCache(Math.max(this.#options.slots ?? 1, rows.length), row.columns);
        row.slot = this.#kept?.takeSlot(this.#cache, row, this.size === 0) ?? this.#cache.take(row.columns);
        this.#rows.add(row);
      }
    } catch (error) {
      for (const row of rows) this.#drop(row);
      throw error;
    } finally {
      for (const request of requests) this.forget(request);
    }
    return rows;
  }

  /**
   * Reads a piece of the images of requests that will be added together, as much work as `pieceTokens` prompt tokens, unless prompts are waiting:
   * they come first, so that rows that write never wait for more than one piece between two steps. What it takes of a piece the next pass's prompts
   * have not. Images of a request that is never added are freed by `forget`.
   * @returns whether all of them are read, so that the requests can be added
   */
  readAhead(requests: readonly RowRequest[]): boolean {
    const left = requests.flatMap(({ images, imageKeys }) =>
      images.filter((_, i) => !this.#kept?.images.get(imageKeys?.[i])),
    );
    if (left.length === 0) return true;
    if ([...this.#rows].some(({ phase }) => phase === 'prefill')) return false;
    const next = left.find((image) => !this.#ahead.isRead(image));
    if (next === undefined) return true;
    const read = this.#ahead.advance(next, this.#pieceLeft);
    this.#spent += this.#ahead.work;
    return read && next === left.at(-1);
  }

  /** Frees what was read ahead for a request. */
  forget({ images }: RowRequest): void {
    for (const image of images) this.#ahead.forget(image);
  }

  /** Takes a row out before its end. Rows that would have taken its latent steps end with an error, which the next `step` gives. */
  remove(row: Row): void {
    if (this.#rows.has(row)) this.#leave(row);
  }

  /** One pass over all rows. An empty batch gives no events. */
  step(): RowEvent[] {
    for (const row of this.#rows)
      if (row.latentStepsLeft === 0 && !row.chosen && row.request.options.maxNewTokens === 0) this.#end(row, 'length');
    const started = performance.now();
    const rows = [...this.#rows];
    const phases = rows.map(({ phase }) => phase);
    const running = rows.some(({ pending }) => pending !== null);
    const written = running ? inferenceMode(() => scope(() => this.#pass(rows))) : null;
    this.#spent = 0;
    // On a GPU the tokens of the pass before are read while this one runs.
    if (this.#unread) this.#read(this.#unread);
    this.#unread = written?.late ? written : null;
    if (written && !written.late) this.#read(written);
    const share = (performance.now() - started) / 1000 / rows.length;
    rows.forEach((row, i) => {
      const phase = phases[i]!;
      row.seconds[phase === 'prefill' ? 'prefill' : phase === 'latent' ? 'latents' : 'decode'] += share;
    });
    return this.#events.splice(0);
  }

  dispose(): void {
    for (const row of this.#rows) row.dispose();
    this.#rows.clear();
    this.#unread?.dispose();
    this.#unread = null;
    this.#kept?.dispose();
    this.#ahead.dispose();
    this.#steps.dispose();
    this.#cache?.dispose();
    this.#cache = null;
  }

  #newCache(slots: number, positions: number): SlotCache {
    return this.#steps.newSlotCache(slots, Math.max(this.#options.capacity ?? 1, positions));
  }

  #pass(rows: readonly Row[]): UnreadTokens | null {
    const groups = planPass(rows, this.#pieceLeft);
    const pieces = groups.flat();
    const inputs = cat(
      pieces.map(({ row, size }) => row.pending!.narrow(0, 0, size)),
      0,
    ).unsqueeze(0);
    const { positions, writing } = passIndices(pieces, this.#model.device);
    const where = { positions, cache: this.#cache!, groups: groups.map(describeGroup) };
    const { hidden, scores, next } = this.#steps.forwardRows(inputs, where);
    let at = 0;
    let scored = 0;
    const ready: Ready[] = [];
    for (const group of groups) {
      const groupScores = group[0]!.row.wantsScores && group[0]!.last ? scores[scored++]! : null;
      group.forEach(({ row, size, last }, i) => {
        at += size;
        row.skip(size);
        row.pendingLatent = 0;
        if (last) ready.push({ row, last: at - 1, scores: groupScores ? groupScores.select(0, i) : null });
      });
    }
    const [latent, written] = [true, false].map((more) => ready.filter(({ row }) => row.latentStepsLeft > 0 === more));
    this.#choose(latent!, hidden);
    for (const { row } of latent!) this.#guard(row, () => this.#insert(row));
    if (written!.length === 0) return null;
    const known = written!.length === pieces.length ? next : null;
    const rows_RD = hidden.select(0, 0);
    const last = () => (writing ? rows_RD.indexSelect(0, writing) : rows_RD);
    const columns = this.#ownColumns(written!.filter(({ row }) => row.request.options.traceText));
    const logits = known?.logits ?? this.#model.logits(last());
    return writeTokens(this.#model, written!, { logits, highest: known?.tokens }, columns, this.#readsLate);
  }

  /** Chooses what the next latent step of each row inserts. */
  #choose(ready: readonly Ready[], hidden: Tensor): void {
    const picking: (PickRow & { row: Row })[] = [];
    for (const { row, scores } of ready) {
      row.phase = 'latent';
      const options = row.optionsOf(row.steps);
      if (!row.images || options.latentVision === 'off') continue;
      this.#guard(row, () => {
        const plan = planPicks(row.used, row.steps, options, row.generator, row.wishes);
        picking.push({ row, plan, scores_N: atColumns(scores!, row.imageColumns) });
      });
    }
    const chosen = pickImageTokens(picking);
    const traced = ready.filter(({ row }) => this.#rows.has(row) && row.request.options.trace);
    const columns = readTogether(this.#ownColumns(traced));
    for (const { row, last } of ready) {
      if (!this.#rows.has(row)) continue;
      const step = row.steps;
      const { indices: picked, index } = chosen[picking.findIndex((one) => one.row === row)] ?? NOTHING;
      const vision =
        index && latentVision(row.images!.indexSelect(0, index), this.#model.hiddenSize, row.optionsOf(step));
      row.choose(vision, this.#model.asInputs(hidden.select(1, last)));
      row.picked.push(picked);
      const at = traced.findIndex((one) => one.row === row);
      const trace = at < 0 ? null : row.tracer!.step(columns[at]!, picked);
      if (trace) row.traces.push(trace);
      this.#events.push({ type: 'latent-step', row, step, picked, trace });
    }
  }

  /** Attention probabilities of the columns that each row has. */
  #ownColumns(ready: readonly Ready[]): Tensor[] {
    return ready.map(({ row, scores }) => scores!.narrow(0, 0, this.#cache!.length(row.slot)));
  }

  /** Makes the next input of a row from what its latent step chose, or from what its partner's did. */
  #insert(row: Row): void {
    if (!row.chosen) return; // With swapped steps the last row of the ring to choose has inserted for all of them.
    const ring = row.ring ?? [row];
    if (!ring.every(({ chosen }) => chosen)) return;
    const all = ring.map(({ chosen }) => chosen!);
    ring.forEach((member, i) => {
      const { afterLatentIds } = member.request;
      const options = member.optionsOf(member.steps - 1);
      const lender = all.at(i - 1)!;
      const vision = (options.latentVision === 'swap' ? lender : all[i]!).vision;
      const text = (options.latentText === 'swap' ? lender : all[i]!).text;
      const rows = insertedRows(vision, text, member.steps - 1, options);
      const patches = vision?.shape[0] ?? 0;
      this.#forgetSteps(member);
      member.tracer?.addImageTokens(patches);
      member.tracer?.addText(rows.shape[0]! - patches);
      const done = member.latentStepsLeft === 0;
      if (done) member.phase = 'text';
      const behind = done ? member.behind : null;
      if (behind) member.tracer?.addText(afterLatentIds.length);
      member.pendingLatent = rows.shape[0]!;
      member.pending = keep(behind ? cat([rows, behind], 0) : rows.slice(0));
      if (done) member.forgetBehind();
    });
    for (const member of ring) {
      member.chosen!.vision?.dispose();
      member.chosen!.text.dispose();
      member.chosen = null;
    }
  }

  /** With `latentMemory: 'last'` nothing sees a latent step's rows any more once the next step's are made. */
  #forgetSteps({ request: { promptIds, options }, slot, tracer }: Row): void {
    if (options.latentMemory === 'all') return;
    this.#cache!.rewind(slot, promptIds.length);
    tracer?.forgetFrom(promptIds.length);
  }

  /** Gives the events of tokens that were chosen. Those of rows that have left since are dropped. */
  #read(unread: UnreadTokens): void {
    for (const { row, id, logprobs, firstLogits, error, full, columns } of unread.finish()) {
      if (!this.#rows.has(row)) continue;
      if (error) {
        this.#fail(row, error);
        continue;
      }
      const { options } = row.request;
      row.unread--;
      if (firstLogits.length > 0) row.firstLogits = firstLogits;
      row.write(id, logprobs);
      const trace = columns && row.tracer!.token(columns, options.patches);
      if (trace) {
        row.textTraces.push(trace);
        row.tracer!.addText(1);
      }
      this.#events.push({ type: 'token', row, id, logprobs, trace });
      if (options.eosIds.includes(id)) this.#end(row, 'eos');
      else if (full) this.#end(row, 'length');
    }
  }

  #guard(row: Row, body: () => void): void {
    if (!this.#rows.has(row)) return;
    try {
      body();
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      this.#fail(row, error);
    }
  }

  #fail(row: Row, error: UserError): void {
    this.#leave(row);
    this.#events.push({ type: 'error', row, error });
  }

  #end(row: Row, reason: 'eos' | 'length'): void {
    this.#leave(row);
    this.#events.push({ type: 'end', row, reason });
  }

  #leave(row: Row): void {
    this.#drop(row);
    // Rows that would still take latent steps from it cannot go on.
    for (const other of row.ring ?? [])
      if (this.#rows.has(other) && (other.latentStepsLeft > 0 || other.chosen))
        this.#fail(other, new UserError('the sample that this one takes its latent steps from has left early'));
  }

  #drop(row: Row): void {
    if (this.#rows.delete(row)) {
      this.#kept?.leave(this.#cache!, row);
      this.#cache!.release(row.slot);
    }
    row.phase = 'ended';
    row.dispose();
  }
}
