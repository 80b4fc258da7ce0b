/**
 * Latent reasoning at inference, row by row: rows join at any step, every pass runs whatever each of them has to run (a piece of its prompt, the
 * rows of a latent step, one token), and rows leave when they end. Each is as it would be alone.
 * Shapes: R positions of a pass, D hidden size, n rows, T columns, V vocabulary.
 */
import { cat, inferenceMode, keep, scope, type Tensor } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { indexTensor } from '../models/common/index-tensor.ts';
import type { SlotCache } from '../models/common/slot-cache.ts';
import type { RowGroup, VisionLanguageModel } from '../models/types.ts';
import { embedRows } from './embed-rows.ts';
import { atColumns, imageSpans } from './image-columns.ts';
import { ImagesAhead } from './images-ahead.ts';
import { KeptParts } from './kept-prefixes.ts';
import { chooseTokens, damagedLogits, logprobsOf, type TokenLogprobs } from './next-token.ts';
import { joinRings, Row, type RowRequest } from './row.ts';
import { insertedRows, latentVision, selectImageTokens } from './select.ts';
import { type GraphsOption, type NextTokens, StaticSteps } from './static-steps.ts';
import type { StepTrace } from './trace.ts';

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
  /** Prompt tokens of a pass: longer prompts run in pieces, and one after the other, so that rows that write need not wait for all of them. */
  pieceTokens?: number;
  /** Bytes of picture embeddings that are kept for later rows of the same picture, which then also take over the beginning of its prompt. Default 0: nothing is. */
  keptImageBytes?: number;
}

/** A row's part of one pass. */
interface Piece {
  row: Row;
  size: number;
  /** Nothing of the row is left to run after this pass. */
  last: boolean;
}

export class RowBatch {
  readonly #model: VisionLanguageModel;
  readonly #options: RowBatchOptions;
  readonly #steps: StaticSteps;
  #cache: SlotCache | null = null;
  readonly #rows = new Set<Row>();
  readonly #events: RowEvent[] = [];
  readonly #kept: KeptParts | null;
  readonly #ahead: ImagesAhead;

  constructor(model: VisionLanguageModel, options: RowBatchOptions = {}) {
    this.#model = model;
    this.#options = options;
    this.#steps = new StaticSteps(model, options.graphs);
    this.#ahead = new ImagesAhead(model);
    this.#kept = options.keptImageBytes ? new KeptParts(options.keptImageBytes) : null;
  }

  /** Rows on their way. */
  get size(): number {
    return this.#rows.size;
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
   * they come first, so that rows that write never wait for more than one piece between two steps. Images of a request that is never added are
   * freed by `forget`.
   * @returns whether all of them are read, so that the requests can be added
   */
  readAhead(requests: readonly RowRequest[]): boolean {
    const left = requests.flatMap(({ images, imageKeys }) =>
      images.filter((_, i) => !this.#kept?.images.get(imageKeys?.[i])),
    );
    if (left.length === 0) return true;
    if ([...this.#rows].some(({ phase }) => phase === 'prefill')) return false;
    const { pieceTokens = Number.POSITIVE_INFINITY } = this.#options;
    const next = left.find((image) => !this.#ahead.isRead(image));
    return next === undefined || (this.#ahead.advance(next, pieceTokens) && next === left.at(-1));
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
    if (rows.length > 0) inferenceMode(() => scope(() => this.#pass(rows)));
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
    this.#kept?.dispose();
    this.#ahead.dispose();
    this.#steps.dispose();
    this.#cache?.dispose();
    this.#cache = null;
  }

  #newCache(slots: number, positions: number): SlotCache {
    return this.#steps.newSlotCache(slots, Math.max(this.#options.capacity ?? 1, positions));
  }

  #pass(rows: readonly Row[]): void {
    const groups = this.#plan(rows);
    const pieces = groups.flat();
    const inputs = cat(
      pieces.map(({ row, size }) => row.pending!.narrow(0, 0, size)),
      0,
    ).unsqueeze(0);
    const where = { positions: this.#positions(pieces), cache: this.#cache!, groups: groups.map(describeGroup) };
    const { hidden, scores, next } = this.#steps.forwardRows(inputs, where);
    let at = 0;
    let scored = 0;
    /** Where each row that has run all it had stands in `hidden`, and its attention probabilities, (T of its group). */
    const ready: { row: Row; last: number; scores: Tensor | null }[] = [];
    for (const group of groups) {
      const groupScores = group[0]!.row.wantsScores && group[0]!.last ? scores[scored++]! : null;
      group.forEach(({ row, size, last }, i) => {
        at += size;
        row.skip(size);
        row.pendingLatent = 0;
        if (last) ready.push({ row, last: at - 1, scores: groupScores ? groupScores.select(0, i) : null });
      });
    }
    const [latent, writing] = [true, false].map((more) => ready.filter(({ row }) => row.latentStepsLeft > 0 === more));
    for (const { row, last, scores } of latent!)
      this.#guard(row, () => this.#choose(row, hidden.select(1, last), scores));
    for (const { row } of latent!) this.#guard(row, () => this.#insert(row));
    this.#write(writing!, hidden, writing!.length === rows.length ? next : null);
  }

  /** Rows with equally many positions to run, and scores to give or not, stand together. Prompts come first. */
  #plan(rows: readonly Row[]): Piece[][] {
    const groups = new Map<string, Piece[]>();
    let left = this.#options.pieceTokens ?? Number.POSITIVE_INFINITY;
    const waiting = rows.filter((row) => row.pending !== null);
    waiting.sort((a, b) => Number(b.phase === 'prefill') - Number(a.phase === 'prefill') || a.slot - b.slot);
    for (const row of waiting) {
      const have = row.pending!.shape[0]!;
      const size = row.phase === 'prefill' ? Math.min(have, left) : have;
      if (size === 0) continue; // this prompt's turn comes in a later pass
      if (row.phase === 'prefill') left -= size;
      const last = size === have;
      const key = `${row.phase === 'prefill'} ${size} ${last && row.wantsScores}`;
      const group = groups.get(key);
      if (group) group.push({ row, size, last });
      else groups.set(key, [{ row, size, last }]);
    }
    return [...groups.values()];
  }

  /** (A, 1, R) int64 */
  #positions(pieces: readonly Piece[]): Tensor {
    const parts: Tensor[] = [];
    const following: number[] = [];
    for (const { row, size } of pieces) {
      if (row.promptPositions) parts.push(row.promptPositions.narrow(1, 0, size));
      else for (let i = 0; i < size; i++) following.push(row.next + i);
    }
    // Prompts come first in a pass, so all others stand behind them.
    if (following.length > 0) parts.push(indexTensor(following, this.#model.device).view([1, following.length]));
    const axes = Math.max(...parts.map(({ shape }) => shape[0]!));
    const alike = parts.map((part) => part.expand([axes, part.shape[1]!]));
    return (alike.length === 1 ? alike[0]! : cat(alike, 1)).unsqueeze(1);
  }

  /** Chooses what the next latent step of a row inserts. text (1, D). */
  #choose(row: Row, text_1D: Tensor, scores: Tensor | null): void {
    const { images, steps } = row;
    const options = row.optionsOf(steps);
    row.phase = 'latent';
    let picked: number[] = [];
    let vision: Tensor | null = null;
    if (images && options.latentVision !== 'off') {
      const own = atColumns(scores!, row.imageColumns);
      picked = selectImageTokens(own, row.used, steps, options, row.generator, row.wishes);
      if (picked.length > 0) {
        const rows = images.indexSelect(0, indexTensor(picked, images.device));
        vision = latentVision(rows, this.#model.hiddenSize, options);
      }
    }
    row.choose(vision, this.#model.asInputs(text_1D));
    row.picked.push(picked);
    let trace: StepTrace | null = null;
    if (options.trace) {
      const columns = this.#cache!.length(row.slot);
      trace = row.tracer!.step(scores!.narrow(0, 0, columns).toNumbers(), picked);
      row.traces.push(trace);
    }
    this.#events.push({ type: 'latent-step', row, step: steps, picked, trace });
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
      const behind = done && afterLatentIds.length > 0 ? this.#embed(afterLatentIds) : null;
      if (behind) member.tracer?.addText(afterLatentIds.length);
      member.pendingLatent = rows.shape[0]!;
      member.pending = keep(behind ? cat([rows, behind], 0) : rows.slice(0));
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

  /** Chooses the next token of rows whose latent steps are done. hidden (1, R, D). `next`: what was computed with it of just these rows. */
  #write(ready: readonly { row: Row; last: number; scores: Tensor | null }[], hidden: Tensor, next: NextTokens | null) {
    if (ready.length === 0) return;
    const places = () => ready.map(({ last }) => last);
    const last = () => hidden.select(0, 0).indexSelect(0, indexTensor(places(), hidden.device));
    const logits = next?.logits ?? this.#model.logits(last());
    const first = ready.flatMap(({ row }, i) => (row.tokens.length === 0 ? [i] : []));
    const rows = ready.map(({ row }) => row);
    const wrong = damagedLogits(logits, first);
    const chosen = chooseTokens(logits, rows, next?.tokens);
    // The chosen tokens are embedded on the device; their ids are read back only for the events.
    const embedded = this.#model.embed(chosen.unsqueeze(0)).select(0, 0);
    const ids = chosen.toNumbers();
    const logprobs = logprobsOf(logits, chosen, rows);
    ready.forEach(({ row, scores }, i) => {
      const error = wrong.get(i);
      if (error) {
        this.#fail(row, error);
        return;
      }
      const { options } = row.request;
      const id = ids[i]!;
      row.phase = 'text';
      if (row.tokens.length === 0 && options.firstLogits)
        row.firstLogits = logits.select(0, i).to('float32').toNumbers();
      row.write(id, logprobs.get(i));
      let trace: StepTrace | null = null;
      if (options.traceText) {
        const columns = this.#cache!.length(row.slot);
        trace = row.tracer!.token(scores!.narrow(0, 0, columns).toNumbers(), options.patches);
        row.textTraces.push(trace);
        row.tracer!.addText(1);
      }
      this.#events.push({ type: 'token', row, id, logprobs: logprobs.get(i) ?? null, trace });
      if (options.eosIds.includes(id)) this.#end(row, 'eos');
      else if (row.tokens.length >= options.maxNewTokens || row.next >= this.#model.maxPositions)
        this.#end(row, 'length');
      else row.pending = keep(embedded.narrow(0, i, 1));
    });
  }

  /** (n, I) */
  #embed(ids: readonly number[]): Tensor {
    return this.#model.embed(indexTensor(ids, this.#model.device).unsqueeze(0)).select(0, 0);
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

function describeGroup(group: readonly Piece[]): RowGroup {
  const [{ row, size, last }] = group as [Piece, ...Piece[]];
  const hidden = group.map(({ row }) => {
    const rows = row.hiddenFromImage(size);
    return rows && { rows, columns: imageSpans(row.imageColumns, row.request.images) };
  });
  return {
    slots: group.map(({ row }) => row.slot),
    size,
    prompt: row.phase === 'prefill',
    scores: last && row.wantsScores,
    hidden: hidden.some(Boolean) ? hidden : null,
  };
}
