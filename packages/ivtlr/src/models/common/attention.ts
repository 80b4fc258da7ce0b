/**
 * Causal attention over a cache, and the attention probabilities of a last row. How a pass attends is an `AttentionPass`: over a closed batch
 * (batch-attention.ts) or over rows of different lengths (row-attention.ts).
 * Shapes: B batch, S new positions, T all positions (past + new), H query heads, G key/value heads, E head size.
 */
import { attendRow, noGrad, scaledSoftmax, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { AttentionScores } from '../types.ts';
import { attendOnGpu } from './gpu-attention.ts';

/** What the layers of one forward pass share: the cache, who may see whom, and whose probabilities are wanted. */
export interface AttentionPass {
  /**
   * One layer.
   * @param q_BHSE queries of the new positions
   * @param k_BGSE their keys, rotated; with `v_BGSE` they join the cache, if there is one
   * @returns (B, S, H*E), and attention probabilities (b, T) a group of rows, where they are wanted
   */
  attend(layer: number, q_BHSE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor): { mixed: Tensor; scores: Tensor[] };
}

export interface AttentionMask {
  /** (B or 1, 1, S, T) bool, true where a position may attend. Null: every position sees all columns, or, with `isCausal`, those up to its own. */
  mask: Tensor | null;
  isCausal: boolean;
}

/** Everything may attend to everything. */
export const NO_MASK: AttentionMask = { mask: null, isCausal: false };

/**
 * Number of probabilities of one layer up to which two plain matrix products replace SDPA in bfloat16 on the CPU: SDPA's kernel repacks keys and
 * values first and takes up to three times as long. The products keep all probabilities in memory, 8 MB at this bound.
 */
const MAX_PROBABILITIES = 2 ** 22;

/** softmax(q k^T / sqrt(E)) v -> (B, S, H*E). Each key head serves H/G query heads. */
export function attend(q_BHSE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor, { mask, isCausal }: AttentionMask): Tensor {
  if (q_BHSE.device !== 'cpu') return attendOnGpu(q_BHSE, k_BGTE, v_BGTE, { mask, isCausal });
  const [B, H, S, E] = q_BHSE.shape as [number, number, number, number];
  if (S === 1) return attendRow(q_BHSE, k_BGTE, v_BGTE, mask);
  if (q_BHSE.dtype === 'bfloat16' && !isCausal && B * H * S * k_BGTE.shape[2]! <= MAX_PROBABILITIES)
    return attendByProducts(q_BHSE, k_BGTE, v_BGTE, mask);
  const grouped = k_BGTE.shape[1] !== H;
  const out = ops.scaled_dot_product_attention(q_BHSE, k_BGTE, v_BGTE, mask, 0, isCausal, null, grouped);
  return out.transpose(1, 2).reshape([B, S, H * E]);
}

/** The query heads of a group share its keys, so they are rows of one product. Rounds as Hugging Face's eager attention does. */
function attendByProducts(q_BHSE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor, mask: Tensor | null): Tensor {
  const [B, H, S, E] = q_BHSE.shape as [number, number, number, number];
  const [, G, T] = k_BGTE.shape as [number, number, number];
  const rows = (H / G) * S;
  let logits = q_BHSE.reshape([B, G, rows, E]).matmul(k_BGTE.transpose(2, 3));
  if (mask) logits = logits.view([B, H, S, T]).maskedFill(mask.not(), Number.NEGATIVE_INFINITY).view([B, G, rows, T]);
  const out = scaledSoftmax(logits, 1 / Math.sqrt(E)).matmul(v_BGTE);
  return out
    .view([B, H, S, E])
    .transpose(1, 2)
    .reshape([B, S, H * E]);
}

/**
 * Attention probabilities of the last query row, averaged over heads: (B, T), float32 (float64 in a float64 model). A mask that hides columns
 * from latent rows does not count here: the scores say what a step looks for.
 * @param keys (B, T) bool, true for columns that exist; null when all do
 * @param mode `detached` records no graph
 */
export function lastRowScores(
  q_BHSE: Tensor,
  k_BGTE: Tensor,
  keys: Tensor | null,
  mode: Exclude<AttentionScores, 'off'>,
): Tensor {
  const compute = () => {
    const [B, H, S, E] = q_BHSE.shape as [number, number, number, number];
    const G = k_BGTE.shape[1]!;
    const T = k_BGTE.shape[2]!;
    const last = q_BHSE.narrow(2, S - 1, 1).view([B, G, H / G, E]);
    let logits = last.matmul(k_BGTE.transpose(2, 3)).mul(1 / Math.sqrt(E));
    if (keys) logits = logits.maskedFill(keys.not().view([B, 1, 1, T]), Number.NEGATIVE_INFINITY);
    if (logits.dtype === 'float64') return logits.softmax(-1).mean([1, 2]);
    return logits.softmax(-1, 'float32').to(q_BHSE.dtype).to('float32').mean([1, 2]);
  };
  return mode === 'graph' ? compute() : noGrad(compute);
}
