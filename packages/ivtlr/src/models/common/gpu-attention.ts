/**
 * Attention in the forms that the fused kernels of NVIDIA GPUs take. What torch's scaled_dot_product_attention chooses from there (libtorch 2.11 to 2.13):
 *
 * | kernel | dtypes | mask | fewer key heads than query heads |
 * |---|---|---|---|
 * | flash | 16 bits | none, or causal over as many keys as queries | yes |
 * | memory-efficient | 16 bits, float32 | any | no |
 * | math (plain products, all probabilities in memory) | any | any | yes |
 *
 * So masked attention with grouped heads, which every latent step and every batch of unequal rows is, would fall to math. Here the query heads that
 * share a key head become rows of it, which the memory-efficient kernel takes, and no key or value is copied.
 * Shapes: B batch, S new positions, T all positions (past + new), H query heads, G key/value heads, E head size.
 */
import type { Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { AttentionMask } from './attention.ts';

/** softmax(q k^T / sqrt(E)) v -> (B, S, H*E), as `attend`. */
export function attendOnGpu(q_BHSE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor, { mask, isCausal }: AttentionMask): Tensor {
  const [B, H, S, E] = q_BHSE.shape as [number, number, number, number];
  const [, G, T] = k_BGTE.shape as [number, number, number];
  const attention = (q: Tensor, k: Tensor, v: Tensor, seen: Tensor | null, causal: boolean, grouped = false) =>
    ops.scaled_dot_product_attention(q, k, v, seen, 0, causal, null, grouped);
  const joined = (out_BHSE: Tensor) => out_BHSE.transpose(1, 2).reshape([B, S, H * E]);
  if (G === H) return joined(attention(q_BHSE, k_BGTE, v_BGTE, mask, isCausal));
  const flash = mask === null && (q_BHSE.dtype === 'bfloat16' || q_BHSE.dtype === 'float16');
  if (flash) return joined(attention(q_BHSE, k_BGTE, v_BGTE, null, isCausal, true));
  if (isCausal) {
    // The rows of a key head would each need a causal mask of their own; this is the prompt's pass in float32, whose keys are copied once.
    const repeated = (x: Tensor) =>
      x
        .unsqueeze(2)
        .expand([B, G, H / G, T, E])
        .reshape([B, H, T, E]);
    return joined(attention(q_BHSE, repeated(k_BGTE), repeated(v_BGTE), null, true));
  }
  const rows = q_BHSE.reshape([B, G, (H / G) * S, E]);
  const out = attention(rows, k_BGTE, v_BGTE, mask && rowsOfMask(mask, H / G), false);
  return joined(headsOfRows(out, H, S));
}

/** (B, G, (H/G)*S, E) -> (B, H, S, E). The memory-efficient kernel gives its rows before its heads, which no view can take apart. */
export function headsOfRows(out: Tensor, H: number, S: number): Tensor {
  const [B, , , E] = out.shape as [number, number, number, number];
  return out.reshape([B, H, S, E]);
}

/** (b, 1, S, T) -> (b, 1, each * S, T): the mask of every query head that shares a key head, one behind the other. */
function rowsOfMask(mask: Tensor, each: number): Tensor {
  const [b, , S, T] = mask.shape as [number, number, number, number];
  if (S === 1) return mask.expand([b, 1, each, T]);
  return mask.expand([b, each, S, T]).reshape([b, 1, each * S, T]);
}

const KERNELS = ['math', 'flash', 'memory-efficient', 'cudnn', 'overrideable'] as const;
export type AttentionKernel = (typeof KERNELS)[number];

/** The kernel that torch would choose for these tensors, which are not attended over. `none` where no kernel takes them. */
export function attentionKernel(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { mask, isCausal }: AttentionMask,
): AttentionKernel | 'none' {
  const grouped = k.shape[1] !== q.shape[1];
  return KERNELS[ops._fused_sdp_choice(q, k, v, mask, 0, isCausal, null, grouped)] ?? 'none';
}
