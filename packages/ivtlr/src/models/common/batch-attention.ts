/**
 * Attention over a closed batch: all rows have the same number of columns, pads are masked. Training runs this way.
 * Shapes: B batch, S new positions, T all positions (past + new), H query heads, G key/value heads, E head size.
 */
import { empty, fromBytes, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { AttentionScores, HiddenColumns } from '../types.ts';
import { type AttentionMask, type AttentionPass, attend, lastRowScores } from './attention.ts';
import type { KeyValueCache } from './kv-cache.ts';

export interface BatchMask extends AttentionMask {
  /** (B, T) bool: columns that are no pads; null when all count. */
  keys: Tensor | null;
}

export class BatchAttention implements AttentionPass {
  readonly #mask: BatchMask;
  readonly #cache: KeyValueCache | null;
  readonly #mode: AttentionScores;

  constructor(mask: BatchMask, cache: KeyValueCache | null, mode: AttentionScores) {
    this.#mask = mask;
    this.#cache = cache;
    this.#mode = mode;
  }

  attend(layer: number, q_BHSE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor): { mixed: Tensor; scores: Tensor[] } {
    const { keys, values } = this.#cache ? this.#cache.append(layer, k_BGSE, v_BGSE) : { keys: k_BGSE, values: v_BGSE };
    const mixed = attend(q_BHSE, keys, values, this.#mask);
    const mode = this.#mode;
    return { mixed, scores: mode === 'off' ? [] : [lastRowScores(q_BHSE, keys, this.#mask.keys, mode)] };
  }
}

/** The mask of one forward pass, the same for all layers. */
export function batchMask(
  batch: number,
  rows: number,
  cache: KeyValueCache | null,
  valid_BS: Tensor | null,
  hidden: HiddenColumns | null,
  device: string,
): BatchMask {
  const past = cache?.length ?? 0;
  const total = past + rows;
  let keys: Tensor | null = null;
  if (valid_BS || cache?.valid) {
    const ones = (length: number) => empty([batch, length], { dtype: 'bool', device }).fill_(1);
    const parts = [cache?.valid ?? ones(past), valid_BS ?? ones(rows)];
    keys = past === 0 ? parts[1]! : ops.cat(parts, 1);
  }
  const hides = hidden !== null && hidden.rows[0] < hidden.rows[1];
  if (!keys && !hides) {
    if (rows === 1) return { mask: null, isCausal: false, keys };
    if (past === 0) return { mask: null, isCausal: true, keys };
  }
  const ones = empty([rows, total], { dtype: 'bool', device }).fill_(1);
  const causal = ops.tril(ones, past);
  let mask = causal.view([1, 1, rows, total]);
  if (keys) {
    // Every position sees itself, pads too: a row without any key would be NaN and spread.
    const self = causal.and(ops.tril(ones, past - 1).not());
    mask = causal.and(keys.view([batch, 1, 1, total])).or(self);
  }
  if (hides) mask = mask.and(hiddenMask(batch, rows, total, hidden, device).not());
  return { mask, isCausal: false, keys };
}

/** (B, 1, S, T): true where a row may not see a column. */
function hiddenMask(batch: number, rows: number, total: number, hidden: HiddenColumns, device: string): Tensor {
  const rowBits = new Uint8Array(rows).fill(1, hidden.rows[0], hidden.rows[1]);
  const columnBits = new Uint8Array(batch * total);
  hidden.columns.forEach((spans, b) => {
    for (const [start, end] of spans) columnBits.fill(1, b * total + start, b * total + end);
  });
  const row = fromBytes(rowBits, 'bool', [1, 1, rows, 1]).to({ device });
  const column = fromBytes(columnBits, 'bool', [batch, 1, 1, total]).to({ device });
  return row.and(column);
}
