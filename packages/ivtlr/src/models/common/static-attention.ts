/**
 * Attention over neighbouring slots of a cache where all that changes from pass to pass is in tensors: see SlotsForwardOptions. Every slot sees what
 * it would see alone.
 * Shapes: n slots, S new positions of each, T columns read, H query heads, G key/value heads, E head size.
 */
import { arange, type Device, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { SlotsForwardOptions } from '../types.ts';
import { type AttentionPass, attend, lastRowScores } from './attention.ts';
import type { SlotCache, SlotRange } from './slot-cache.ts';

export class StaticAttention implements AttentionPass {
  readonly #cache: SlotCache;
  readonly #range: SlotRange;
  /** (n, 1, S, T) bool */
  readonly #mask: Tensor;
  /** (n, T) bool, where scores are wanted. */
  readonly #keys: Tensor | null;

  constructor(options: Omit<SlotsForwardOptions, 'positions'>, size: number, device: Device) {
    const { cache, start, columns, lengths, scores } = options;
    const n = lengths.shape[0]!;
    const steps = arange(0, size, 1, { dtype: 'int64', device });
    /** (n, S): the column of every new position; negative for slots that take no part. */
    const own = lengths.view([n, 1]).add(steps.view([1, size]));
    const idle = lengths.lt(0).view([n, 1]);
    const slots = arange(start, start + n, 1, { dtype: 'int64', device });
    this.#cache = cache;
    this.#range = {
      slots: Array.from({ length: n }, (_, i) => start + i),
      size,
      columns,
      start,
      past: null,
      pasts: lengths,
      slotIndex: null,
      writeIndex: {
        slots: slots
          .view([n, 1])
          .expand([n, size])
          .reshape([n * size]),
        columns: own.maskedFill(idle, cache.capacity).reshape([n * size]),
      },
    };
    // A row of attention that sees nothing would not be numbers, so slots that take no part see their first column.
    const last = ops.clamp(own, 0);
    const every = arange(0, columns, 1, { dtype: 'int64', device });
    this.#mask = every.view([1, 1, 1, columns]).le(last.view([n, 1, size, 1]));
    this.#keys = scores ? every.view([1, columns]).le(last.narrow(1, size - 1, 1)) : null;
  }

  attend(layer: number, q_nHSE: Tensor, k_nGSE: Tensor, v_nGSE: Tensor): { mixed: Tensor; scores: Tensor[] } {
    const { keys, values } = this.#cache.append(layer, this.#range, k_nGSE, v_nGSE);
    const scores = this.#keys ? [lastRowScores(q_nHSE, keys, this.#keys, 'detached')] : [];
    return { mixed: attend(q_nHSE, keys, values, { mask: this.#mask, isCausal: false }), scores };
  }
}
