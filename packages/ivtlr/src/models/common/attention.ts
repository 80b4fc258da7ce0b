/**
 * Causal attention over a cache, and the attention tap.
 * Shapes: B batch, S new positions, T all positions (past + new), H query heads, G key/value heads, E head size.
 */
import { attendRow, empty, fromBytes, noGrad, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { HiddenColumns, TapMode } from '../types.ts';
import type { KeyValueCache } from './kv-cache.ts';

export interface AttentionMask {
  /** (B or 1, 1, S, T) bool, true = may attend; null when `isCausal` or nothing says it all. */
  mask: Tensor | null;
  isCausal: boolean;
  /** (B, T) bool: keys that are no pads; null when all count. Also holds for the tap, which knows no hidden columns. */
  keys: Tensor | null;
}

/** Everything may attend to everything. */
export const NO_MASK: AttentionMask = { mask: null, isCausal: false, keys: null };

/** The mask of one forward pass, the same for all layers. */
export function attentionMask(
  batch: number,
  rows: number,
  cache: KeyValueCache | null,
  valid_BS: Tensor | null,
  hidden: HiddenColumns | null,
  device: string,
): AttentionMask {
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
  hidden.columns.forEach(([start, end], b) => {
    columnBits.fill(1, b * total + start, b * total + end);
  });
  const row = fromBytes(rowBits, 'bool', [1, 1, rows, 1]).to({ device });
  const column = fromBytes(columnBits, 'bool', [batch, 1, 1, total]).to({ device });
  return row.and(column);
}

/**
 * Probabilities of one layer up to which plain products take SDPA's place in bfloat16 on the CPU: its kernel repacks keys and values first and
 * takes up to three times as long, but needs no room for the probabilities (8 MB here).
 */
const MOST_PROBABILITIES = 2 ** 22;

/** softmax(q k^T / sqrt(E)) v -> (B, S, H*E). Grouped key heads serve H/G query heads each. */
export function attend(q_BHSE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor, mask: AttentionMask): Tensor {
  const [B, H, S, E] = q_BHSE.shape as [number, number, number, number];
  if (S === 1) return attendRow(q_BHSE, k_BGTE, v_BGTE, mask.mask);
  if (
    q_BHSE.dtype === 'bfloat16' &&
    q_BHSE.device === 'cpu' &&
    !mask.isCausal &&
    B * H * S * k_BGTE.shape[2]! <= MOST_PROBABILITIES
  )
    return attendByProducts(q_BHSE, k_BGTE, v_BGTE, mask);
  const grouped = k_BGTE.shape[1] !== H;
  const out = ops.scaled_dot_product_attention(q_BHSE, k_BGTE, v_BGTE, mask.mask, 0, mask.isCausal, null, grouped);
  return out.transpose(1, 2).reshape([B, S, H * E]);
}

/** The query heads of a group share its keys, so they are rows of one product. Rounds as Hugging Face's eager attention does. */
function attendByProducts(q_BHSE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor, { mask }: AttentionMask): Tensor {
  const [B, H, S, E] = q_BHSE.shape as [number, number, number, number];
  const [, G, T] = k_BGTE.shape as [number, number, number];
  const rows = (H / G) * S;
  let logits = q_BHSE
    .reshape([B, G, rows, E])
    .matmul(k_BGTE.transpose(2, 3))
    .mul(1 / Math.sqrt(E));
  if (mask) logits = logits.view([B, H, S, T]).maskedFill(mask.not(), Number.NEGATIVE_INFINITY).view([B, G, rows, T]);
  const out = logits.softmax(-1).matmul(v_BGTE);
  return out
    .view([B, H, S, E])
    .transpose(1, 2)
    .reshape([B, S, H * E]);
}

/**
 * Probabilities of the last query row, averaged over heads: (B, T), float32 (float64 in a float64 model). Hidden columns count here: the scores say what the step
 * looks for. In mode `value` no graph is recorded.
 */
export function tapScores(q_BHSE: Tensor, k_BGTE: Tensor, mask: AttentionMask, mode: TapMode): Tensor {
  const compute = () => {
    const [B, H, S, E] = q_BHSE.shape as [number, number, number, number];
    const G = k_BGTE.shape[1]!;
    const T = k_BGTE.shape[2]!;
    const last = q_BHSE.narrow(2, S - 1, 1).view([B, G, H / G, E]);
    let logits = last.matmul(k_BGTE.transpose(2, 3)).mul(1 / Math.sqrt(E));
    if (mask.keys) logits = logits.maskedFill(mask.keys.not().view([B, 1, 1, T]), Number.NEGATIVE_INFINITY);
    if (logits.dtype === 'float64') return logits.softmax(-1).mean([1, 2]);
    return logits.softmax(-1, 'float32').to(q_BHSE.dtype).to('float32').mean([1, 2]);
  };
  return mode === 'graph' ? compute() : noGrad(compute);
}
