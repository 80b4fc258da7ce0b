/** Functions without parameters. Shapes: B batch, H query heads, G key/value heads, S queries, T keys, E head size, V classes. */
import { op } from '../core/op.ts';
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';
import { Module } from './module.ts';

/** Kernels of native/linear.cpp and linear_amx.cpp. */
export type LinearKernel = 'amx' | 'avx512_bf16' | 'avx2' | 'aten';

/**
 * x W^T + bias: aten::linear, except that few rows of bfloat16 on the CPU outside a graph run on kernels of our own, at the speed the weight
 * can be read. x (B, I), weight (O, I), bias (O) or null -> (B, O). A named kernel is forced (for tests and measurements).
 * @throws TorchError when a named kernel is not for this call or this CPU
 */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null, kernel?: LinearKernel): Tensor {
  return op('ivtlr::linear')(x, weight, bias, kernel) as Tensor;
}

/** x / sqrt(mean(x^2) + eps) over the last dimension, rounded to x's dtype, times weight (D): one op of native/decode.cpp. x (B, D). */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  return op('ivtlr::rms_norm')(x, weight, eps) as Tensor;
}

/**
 * Rotary positions: x * cos + (-second half of x, first half) * sin over the last dimension, one op of native/decode.cpp.
 * x (B, H, S, E), cos and sin (B or 1, 1, S, E) -> (B, H, S, E). Angles of a wider dtype than x: computed in theirs, returned in x's.
 */
export function rotateHalves(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  return op('ivtlr::rotate')(x, cos, sin) as Tensor;
}

/**
 * Attention of a single query row, one op of native/decode.cpp: q (B, H, 1, E), k and v (B, G, T, E), mask bool (B or 1, 1, 1, T), true = may
 * attend, or null -> (B, 1, H*E).
 */
export function attendRow(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | null = null): Tensor {
  return op('ivtlr::attend_row')(q, k, v, mask) as Tensor;
}

/** Where the first of the largest numbers of the last dimension stands, of the first NaN if there is one: (.., V) -> (..) int64, one op of native/decode.cpp. */
export function argmaxLast(x: Tensor): Tensor {
  return op('ivtlr::argmax')(x) as Tensor;
}

export interface AttentionOptions {
  /** Broadcast to (B, H, S, T): bool (true = may attend) or float, added to the scores. Not together with `isCausal`. */
  mask?: Tensor | null;
  dropout?: number;
  /** Query i sees keys 0..i (top-left aligned when S and T differ). */
  isCausal?: boolean;
  /** Default 1 / sqrt(E). */
  scale?: number;
  /** Allow G < H, with H a multiple of G: key head h serves query heads h*H/G .. (h+1)*H/G - 1. */
  enableGqa?: boolean;
}

/** softmax(q k^T * scale + mask) v. q (B, H, S, E), k and v (B, G, T, E) -> (B, H, S, E). ATen scaled_dot_product_attention. */
export function scaledDotProductAttention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const { mask = null, dropout: p = 0, isCausal = false, scale = null, enableGqa = false } = options;
  return ops.scaled_dot_product_attention(q, k, v, mask, p, isCausal, scale, enableGqa);
}

/** Zeroes each element with probability p and divides the rest by 1 - p; x itself when not training or p is 0. */
export function dropout(x: Tensor, p: number, training: boolean): Tensor {
  return training && p > 0 ? ops.dropout(x, p, true) : x;
}

/** Dropout as a module: acts in training mode only. */
export class Dropout extends Module {
  readonly p: number;

  constructor(p: number) {
    super();
    if (!(p >= 0 && p <= 1)) throw new RangeError(`a dropout probability lies in 0..1, got ${p}`);
    this.p = p;
  }

  forward(x: Tensor): Tensor {
    return dropout(x, this.p, this.training);
  }
}

export interface CrossEntropyOptions {
  /** Labels with this value count neither in the sum nor in the mean. Default -100. */
  ignoreIndex?: number;
  /** Default 'mean'. With every label ignored the mean is NaN, as in PyTorch. */
  reduction?: 'none' | 'mean' | 'sum';
  labelSmoothing?: number;
}

const REDUCTIONS = { none: 0, mean: 1, sum: 2 } as const;

/** -log softmax(logits)[label]. logits (B, V) floating, labels (B) int64 -> scalar, or (B) with reduction 'none'. ATen cross_entropy_loss. */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const { ignoreIndex = -100, reduction = 'mean', labelSmoothing = 0 } = options;
  return ops.cross_entropy_loss(logits, labels, null, REDUCTIONS[reduction], ignoreIndex, labelSmoothing);
}

/** x * sigmoid(x). */
export function silu(x: Tensor): Tensor {
  return ops.silu(x);
}

/** x * Phi(x); 'tanh' is the usual approximation. */
export function gelu(x: Tensor, approximate: 'none' | 'tanh' = 'none'): Tensor {
  return ops.gelu(x, approximate);
}

/** x * sigmoid(1.702 x), the activation of CLIP's and Qwen2-VL's vision towers: one op of native/activations.cpp. */
export function quickGelu(x: Tensor): Tensor {
  return op('ivtlr::quick_gelu')(x) as Tensor;
}

/** silu(gate) * up, of one shape, as in the MLP of Llama's and Qwen's decoders: one op of native/activations.cpp. */
export function siluMul(gate: Tensor, up: Tensor): Tensor {
  return op('ivtlr::silu_mul')(gate, up) as Tensor;
}

/** softmax(logits * scale) over the last dimension, in the dtype of the logits: one op of native/activations.cpp. */
export function scaledSoftmax(logits: Tensor, scale: number): Tensor {
  return op('ivtlr::scaled_softmax')(logits, scale) as Tensor;
}
