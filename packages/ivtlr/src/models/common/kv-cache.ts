/** Keys and values of the positions a decoder has seen. Shapes: B batch, G key/value heads, T positions, E head size. */
import { cat, type Device, type DType, empty, keep, noGrad, type Tensor } from '@ivtlr/torch';

export interface CacheShape {
  layers: number;
  batch: number;
  heads: number;
  headSize: number;
  dtype: DType;
  device: Device;
}

export interface KeyValueCache {
  /** T: positions held. Moves on when `advance` is called, after all layers have appended. */
  readonly length: number;
  /** Which positions are no pads: (B, T) bool, or null when all count. */
  readonly valid: Tensor | null;
  /** Adds the new rows of one layer, (B, G, S, E) each, and gives back all rows so far, (B, G, T+S, E). */
  append(layer: number, keys: Tensor, values: Tensor): { keys: Tensor; values: Tensor };
  advance(rows: number, valid: Tensor | null): void;
  /** Forgets all positions from `length` on. */
  rewind(length: number): void;
  dispose(): void;
}

/** For inference: memory for `capacity` positions is taken once, and every step copies only its own rows. */
export class PreallocatedCache implements KeyValueCache {
  length = 0;
  valid: Tensor | null = null;
  readonly #layers: { keys: Tensor; values: Tensor }[];
  readonly capacity: number;

  constructor(shape: CacheShape, capacity: number) {
    this.capacity = capacity;
    const room = () =>
      keep(empty([shape.batch, shape.heads, capacity, shape.headSize], { dtype: shape.dtype, device: shape.device }));
    this.#layers = Array.from({ length: shape.layers }, () => ({ keys: room(), values: room() }));
  }

  append(layer: number, keys: Tensor, values: Tensor): { keys: Tensor; values: Tensor } {
    const rows = keys.shape[2]!;
    const end = this.length + rows;
    if (end > this.capacity)
      throw new RangeError(`the cache has room for ${this.capacity} positions, ${end} are needed`);
    const room = this.#layers[layer]!;
    noGrad(() => {
      room.keys.narrow(2, this.length, rows).copy_(keys);
      room.values.narrow(2, this.length, rows).copy_(values);
    });
    return { keys: room.keys.narrow(2, 0, end), values: room.values.narrow(2, 0, end) };
  }

  advance(rows: number, valid: Tensor | null): void {
    this.valid = joinValid(this, rows, valid);
    this.length += rows;
  }

  rewind(length: number): void {
    this.valid = validUpTo(this, length);
    this.length = length;
  }

  dispose(): void {
    this.valid?.dispose();
    for (const { keys, values } of this.#layers) {
      keys.dispose();
      values.dispose();
    }
  }
}

/**
 * For training through cached steps: rows are concatenated, so the graph reaches back to where they were made. In a segmented pass it is cut
 * there: a layer's segment hands its rows out, and puts their borders in.
 */
export class GraphCache implements KeyValueCache {
  length = 0;
  valid: Tensor | null = null;
  readonly #segmented: boolean;
  readonly #layers: ({ keys: Tensor; values: Tensor } | undefined)[] = [];

  /** @param segmented the rows belong to the scope of the pass, not to the cache */
  constructor(segmented: boolean) {
    this.#segmented = segmented;
  }

  append(layer: number, keys: Tensor, values: Tensor): { keys: Tensor; values: Tensor } {
    const before = this.#layers[layer];
    // After `rewind` a layer still holds what is forgotten; it is left out here, so that the graph goes through this pass.
    const held = (rows: Tensor) => (rows.shape[2]! > this.length ? rows.narrow(2, 0, this.length) : rows);
    const joined = before && {
      keys: cat([held(before.keys), keys], 2),
      values: cat([held(before.values), values], 2),
    };
    if (this.#segmented) {
      const all = joined ?? { keys, values };
      this.#layers[layer] = all;
      return all;
    }
    const all = joined ?? { keys: keys.slice(2), values: values.slice(2) }; // handles of its own
    this.#layers[layer] = keep(all);
    before?.keys.dispose();
    before?.values.dispose();
    return all;
  }

  /** All rows of a layer, for its segment to give back as outputs. */
  rows(layer: number): [keys: Tensor, values: Tensor] {
    const { keys, values } = this.#layers[layer]!;
    return [keys, values];
  }

  /** Puts the segment's borders in place of its rows. */
  replace(layer: number, keys: Tensor, values: Tensor): void {
    this.#layers[layer] = { keys, values };
  }

  advance(rows: number, valid: Tensor | null): void {
    this.valid = joinValid(this, rows, valid);
    this.length += rows;
  }

  rewind(length: number): void {
    this.valid = validUpTo(this, length);
    this.length = length;
  }

  dispose(): void {
    this.valid?.dispose();
    if (this.#segmented) return;
    for (const layer of this.#layers) {
      layer?.keys.dispose();
      layer?.values.dispose();
    }
  }
}

function joinValid(cache: KeyValueCache, rows: number, valid: Tensor | null): Tensor | null {
  const before = cache.valid;
  if (!before && !valid) return null;
  const batch = (before ?? valid)!.shape[0]!;
  const device = (before ?? valid)!.device;
  const all = (length: number) => empty([batch, length], { dtype: 'bool', device }).fill_(1);
  const joined = keep(cat([before ?? all(cache.length), valid ?? all(rows)], 1));
  before?.dispose();
  return joined;
}

/** @throws RangeError when fewer positions are held */
function validUpTo(cache: KeyValueCache, length: number): Tensor | null {
  if (length > cache.length)
    throw new RangeError(`the cache holds ${cache.length} positions and cannot be set back to ${length}`);
  const before = cache.valid;
  if (!before || length === cache.length) return before;
  const kept = keep(before.narrow(1, 0, length));
  before.dispose();
  return kept;
}
