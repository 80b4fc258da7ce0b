/**
 * Keys and values of rows that come and go: every row has a slot and a length of its own. Shapes: b rows of a group, G key/value heads, S new
 * positions, T columns read, E head size.
 */
import { empty, inferenceMode, keep, scope, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { indexTensor } from './index-tensor.ts';
import type { CacheShape } from './kv-cache.ts';

/** Where the rows of a group write and read in one pass: the same for all layers. */
export interface SlotRange {
  slots: readonly number[];
  /** S */
  size: number;
  /** T */
  columns: number;
  /** First slot, when the slots follow each other. */
  start: number | null;
  /** Past length, when it is the same for all rows. */
  past: number | null;
  /** (b) int64 past lengths; null when they are the same. */
  pasts: Tensor | null;
  /** (b) int64 slots; null when they follow each other. */
  slotIndex: Tensor | null;
  /** (b*S) int64 slot and column of every new position; null when one block takes them all. */
  writeIndex: { slots: Tensor; columns: Tensor } | null;
}

/** Columns are cleared in blocks: what a masked column holds must be a number, since 0 times NaN is NaN. */
const BLOCK = 256;

/** One would do; with eight, what is read can be a multiple of eight, which attention kernels like best. */
export const SPARE_COLUMNS = 8;
const SPARE_BLOCK = 64;

export interface SlotCacheOptions {
  /**
   * Every slot has SPARE_COLUMNS more behind its capacity, which are written and never read: where a pass over neighbouring slots puts what it makes
   * for those that take no part in it. Memory is then taken in blocks of columns, so that it stays in its place for longer.
   */
  spare?: boolean;
}

export class SlotCache {
  #shape: CacheShape;
  #capacity: number;
  readonly #spare: number;
  #generation = 0;
  /** Columns that hold numbers in every slot. */
  #cleared = 0;
  #layers: { keys: Tensor; values: Tensor }[];
  readonly #lengths: number[] = [];
  readonly #free: number[] = [];

  /**
   * @param shape `batch` is the number of slots to begin with
   * @param capacity positions a slot has room for
   */
  constructor(shape: CacheShape, capacity: number, { spare = false }: SlotCacheOptions = {}) {
    this.#shape = { ...shape };
    this.#spare = spare ? SPARE_COLUMNS : 0;
    this.#capacity = this.#rounded(capacity);
    this.#layers = this.#room();
    for (let slot = 0; slot < shape.batch; slot++) this.#addSlot();
  }

  /** Slots, taken or free. */
  get slots(): number {
    return this.#shape.batch;
  }

  /** See SlotCacheOptions; the first spare column is column `capacity`. */
  get hasSpare(): boolean {
    return this.#spare > 0;
  }

  /** Changes when keys and values move to other memory. */
  get generation(): number {
    return this.#generation;
  }

  /** Positions a slot has room for. */
  get capacity(): number {
    return this.#capacity;
  }

  /** Bytes of all slots; layers are alike. */
  get bytes(): number {
    const { keys, values } = this.#layers[0]!;
    return this.#layers.length * (keys.nbytes + values.nbytes);
  }

  /** Positions a slot holds. */
  length(slot: number): number {
    return this.#lengths[slot]!;
  }

  /** Slots that no row has, in rising order. What they hold stays until they are taken. */
  get free(): readonly number[] {
    return this.#free;
  }

  /**
   * A free slot with room for `positions`; the cache grows where it must.
   * @param wanted one of the free slots, and how many of the positions that it holds stay; default: the first one, empty
   */
  take(positions: number, wanted: { slot: number; length: number } | null = null): number {
    const slots = this.#free.length === 0 ? this.#shape.batch + 1 : this.#shape.batch;
    if (slots > this.#shape.batch || positions > this.#capacity) this.#grow(slots, positions);
    const slot = wanted?.slot ?? this.#free[0]!;
    this.#free.splice(this.#free.indexOf(slot), 1);
    this.#lengths[slot] = wanted?.length ?? 0;
    return slot;
  }

  /** Gives a slot back; the others keep what they hold. */
  release(slot: number): void {
    this.#lengths[slot] = 0;
    this.#free.push(slot);
    this.#free.sort((a, b) => a - b);
  }

  /** Plans one pass of a group. @throws RangeError when a row would not fit */
  range(slots: readonly number[], size: number): SlotRange {
    const pasts = slots.map((slot) => this.#lengths[slot]!);
    const end = Math.max(...pasts) + size;
    if (end > this.#capacity)
      throw new RangeError(`the cache has room for ${this.#capacity} positions, ${end} are needed`);
    this.prepare(end);
    const start = slots.every((slot, i) => slot === slots[0]! + i) ? slots[0]! : null;
    const past = pasts.every((value) => value === pasts[0]) ? pasts[0]! : null;
    const { device } = this.#shape;
    const writes = start === null || past === null ? slots.length * size : 0;
    const numbers: number[] = [];
    // All that the pass needs of whole numbers is sent at once.
    if (writes > 0) {
      for (const slot of slots) for (let s = 0; s < size; s++) numbers.push(slot);
      for (const value of pasts) for (let s = 0; s < size; s++) numbers.push(value + s);
    }
    if (past === null) numbers.push(...pasts);
    if (start === null) numbers.push(...slots);
    const sent = numbers.length > 0 ? indexTensor(numbers, device) : null;
    let at = 0;
    const next = (length: number) => {
      at += length;
      return sent!.narrow(0, at - length, length);
    };
    return {
      slots,
      size,
      columns: end,
      start,
      past,
      writeIndex: writes === 0 ? null : { slots: next(writes), columns: next(writes) },
      pasts: past === null ? next(pasts.length) : null,
      slotIndex: start === null ? next(slots.length) : null,
    };
  }

  /** Makes sure that the first `columns` columns of every slot hold numbers. */
  prepare(columns: number): void {
    if (columns > this.#cleared) this.#clear(Math.min(this.#capacity, Math.ceil(columns / BLOCK) * BLOCK));
  }

  /** Adds the new positions of one layer, (b, G, S, E) each, and gives back the columns to read, (b, G, T, E). */
  append(layer: number, range: SlotRange, keys: Tensor, values: Tensor): { keys: Tensor; values: Tensor } {
    const room = this.#layers[layer]!;
    return { keys: this.#write(room.keys, range, keys), values: this.#write(room.values, range, values) };
  }

  #write(room: Tensor, range: SlotRange, fresh_bGSE: Tensor): Tensor {
    const { slots, size, columns, start, past, slotIndex, writeIndex } = range;
    if (writeIndex) {
      const [b, G, , E] = fresh_bGSE.shape as [number, number, number, number];
      const flat = fresh_bGSE.transpose(1, 2).reshape([b * size, G, E]);
      ops.index_put_(room.transpose(1, 2), [writeIndex.slots, writeIndex.columns], flat);
    } else {
      this.#slots(room, start!, slots.length).narrow(2, past!, size).copy_(fresh_bGSE);
    }
    const read = columns === this.#capacity + this.#spare ? room : room.narrow(2, 0, columns);
    return slotIndex ? read.indexSelect(0, slotIndex) : this.#slots(read, start!, slots.length);
  }

  #slots(room: Tensor, start: number, count: number): Tensor {
    return count === this.#shape.batch ? room : room.narrow(0, start, count);
  }

  /** After all layers have appended. */
  advance(slots: readonly number[], size: number): void {
    for (const slot of slots) this.#lengths[slot]! += size;
  }

  /** Forgets the positions of a slot from `length` on; the next ones take their place. @throws RangeError when it holds fewer */
  rewind(slot: number, length: number): void {
    if (length > this.#lengths[slot]!)
      throw new RangeError(`slot ${slot} holds ${this.#lengths[slot]} positions and cannot be set back to ${length}`);
    this.#lengths[slot] = length;
  }

  dispose(): void {
    for (const { keys, values } of this.#layers) {
      keys.dispose();
      values.dispose();
    }
  }

  #addSlot(): void {
    this.#free.push(this.#lengths.length);
    this.#lengths.push(0);
  }

  #room(): { keys: Tensor; values: Tensor }[] {
    const { layers, batch, heads, headSize, dtype, device } = this.#shape;
    this.#generation++;
    const make = () => keep(empty([batch, heads, this.#capacity + this.#spare, headSize], { dtype, device }));
    return inferenceMode(() => Array.from({ length: layers }, () => ({ keys: make(), values: make() })));
  }

  #grow(slots: number, positions: number): void {
    const before = this.#layers;
    const had = this.#shape.batch;
    this.#shape = { ...this.#shape, batch: slots };
    this.#capacity = Math.max(this.#capacity, this.#rounded(positions));
    this.#layers = this.#room();
    inferenceMode(() =>
      scope(() => {
        this.#layers.forEach((layer, i) => {
          for (const part of ['keys', 'values'] as const) {
            const held = layer[part].narrow(2, 0, this.#cleared);
            held.narrow(0, 0, had).copy_(before[i]![part].narrow(2, 0, this.#cleared));
            if (slots > had) held.narrow(0, had, slots - had).fill_(0);
            before[i]![part].dispose();
          }
        });
      }),
    );
    for (let slot = had; slot < slots; slot++) this.#addSlot();
  }

  #rounded(positions: number): number {
    if (this.#spare === 0) return positions;
    return Math.ceil((positions + this.#spare) / SPARE_BLOCK) * SPARE_BLOCK - this.#spare;
  }

  #clear(end: number): void {
    inferenceMode(() =>
      scope(() => {
        for (const layer of this.#layers)
          for (const part of [layer.keys, layer.values]) part.narrow(2, this.#cleared, end - this.#cleared).fill_(0);
      }),
    );
    this.#cleared = end;
  }
}
