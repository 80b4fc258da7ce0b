/**
 * What rows that have left a batch leave behind for the next ones: keys and values of a prompt that begins like theirs, still in the cache, and the
 * token embeddings of pictures. A row takes part when its request names its pictures, of which it may have none.
 */
import { inferenceMode, keep, scope, type Tensor } from '@ivtlr/torch';
import type { SlotCache } from '../models/common/slot-cache.ts';
import type { Row } from './row.ts';

/** Rows that come one after the other go through so many slots, so that as many conversations can go on where they were. */
const SLOTS = 4;
/** Shorter beginnings are run again. */
const LEAST = 16;

interface Kept {
  /** Tokens whose keys and values the slot holds, from position 0: ids, and for image tokens the name of their picture. */
  tokens: readonly (number | string)[];
  /** How they are numbered, on which keys depend too. */
  positions: string;
  /** Rises with every row that leaves. */
  time: number;
}

/** Prompts whose keys and values free slots of a cache still hold. */
class KeptPrefixes {
  readonly #slots = new Map<number, Kept>();
  #time = 0;

  /**
   * The free slot that holds the longest beginning of a row's prompt, at least one position of which is left to run.
   * @returns null when none holds enough of it to be of use
   */
  find(row: Row, free: readonly number[]): { slot: number; length: number } | null {
    const tokens = namedTokens(row);
    if (!tokens) return null;
    let best: { slot: number; length: number } | null = null;
    for (const slot of free) {
      const kept = this.#slots.get(slot);
      if (!kept || kept.positions !== row.request.options.positions) continue;
      const length = commonLength(kept.tokens, tokens);
      if (length >= LEAST && length > (best?.length ?? 0)) best = { slot, length };
    }
    return best;
  }

  /** Of free slots the one whose beginning is missed least: one that holds none, else the oldest. */
  oldest(free: readonly number[]): number {
    const time = (slot: number) => this.#slots.get(slot)?.time ?? 0;
    return free.reduce((best, slot) => (time(slot) < time(best) ? slot : best));
  }

  /** Notes what a row's slot holds. @param length positions that the slot holds */
  keep(row: Row, length: number): void {
    const { latentSteps, afterLatentIds, options } = row.request;
    const prompt = namedTokens(row);
    if (!prompt) return;
    // Latent rows have no ids, so nothing behind them can be found again; and text that did not see the image is not as a prompt would be.
    const found = latentSteps === 0 && !options.hideImageFromText;
    const written = found ? [...afterLatentIds, ...row.tokens] : [];
    const tokens = [...prompt, ...written].slice(0, length);
    this.#slots.set(row.slot, { tokens, positions: options.positions, time: ++this.#time });
  }

  /** A slot holds something else from now on. */
  forget(slot: number): void {
    this.#slots.delete(slot);
  }

  clear(): void {
    this.#slots.clear();
  }
}

/** The prompt's tokens, image tokens by the name of their picture; null when the pictures are not named. */
function namedTokens({ request: { promptIds, images, imageKeys }, imageColumns }: Row): (number | string)[] | null {
  if (!imageKeys) return null;
  const tokens: (number | string)[] = [...promptIds];
  let at = 0;
  images.forEach(({ tokens: count }, i) => {
    for (const column of imageColumns.slice(at, at + count)) tokens[column] = imageKeys[i]!;
    at += count;
  });
  return tokens;
}

function commonLength(kept: readonly (number | string)[], prompt: readonly (number | string)[]): number {
  const most = Math.min(kept.length, prompt.length - 1);
  let length = 0;
  while (length < most && kept[length] === prompt[length]) length++;
  return length;
}

/** Token embeddings of the pictures that were asked about last, within a number of bytes. */
export class EncodedImages {
  readonly #most: number;
  /** (N, D) each; the one that was used last stands last. */
  readonly #images = new Map<string, Tensor>();
  #bytes = 0;

  constructor(bytes: number) {
    this.#most = bytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get(key: string | undefined): Tensor | null {
    const found = key === undefined ? undefined : this.#images.get(key);
    if (!found) return null;
    this.#images.delete(key!);
    this.#images.set(key!, found);
    return found;
  }

  /** Keeps a tensor of its own for the picture; the oldest ones make room. */
  put(key: string, image_ND: Tensor): void {
    if (image_ND.nbytes > this.#most || this.#images.has(key)) return;
    this.#images.set(key, keep(image_ND.clone()));
    this.#bytes += image_ND.nbytes;
    for (const [oldest, tensor] of this.#images) {
      if (this.#bytes <= this.#most) break;
      this.#images.delete(oldest);
      this.#bytes -= tensor.nbytes;
      tensor.dispose();
    }
  }

  dispose(): void {
    for (const tensor of this.#images.values()) tensor.dispose();
    this.#images.clear();
    this.#bytes = 0;
  }
}

/** Both, for one batch. */
export class KeptParts {
  readonly images: EncodedImages;
  readonly #prefixes = new KeptPrefixes();

  /** @param imageBytes bytes of picture embeddings */
  constructor(imageBytes: number) {
    this.images = new EncodedImages(imageBytes);
  }

  /**
   * A slot for a row. If one holds the beginning of its prompt, the row goes on behind it.
   * @param alone no other row is on its way
   */
  takeSlot(cache: SlotCache, row: Row, alone: boolean): number {
    const found = this.#prefixes.find(row, cache.free);
    if (found) inferenceMode(() => scope(() => row.skip(found.length)));
    // Beside others, slots that follow each other are read without a copy, so the first free one is best.
    const spare = alone && cache.free.length > 0 ? this.#prefixes.oldest(cache.free.slice(0, SLOTS)) : null;
    const slot = cache.take(row.columns, found ?? (spare === null ? null : { slot: spare, length: 0 }));
    this.#prefixes.forget(slot);
    return slot;
  }

  /** A row leaves its slot, which holds its positions until another row takes it. */
  leave(cache: SlotCache, row: Row): void {
    this.#prefixes.keep(row, cache.length(row.slot));
  }

  /** The cache is made anew. */
  forgetSlots(): void {
    this.#prefixes.clear();
  }

  dispose(): void {
    this.images.dispose();
    this.#prefixes.clear();
  }
}
