/** LayerNorm, RMSNorm, GroupNorm. Shapes: B any leading sizes, D features, N batch, C channels. */
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';
import { rmsNorm } from './functional.ts';
import { constantParameter, type FactoryOptions } from './init.ts';
import { Module } from './module.ts';

/** Over the last dimension, as torch.nn.LayerNorm. weight and bias (D), or null with `affine: false`. */
export class LayerNorm extends Module {
  weight: Tensor | null;
  bias: Tensor | null;
  readonly eps: number;
  readonly #shape: [number];

  constructor(
    features: number,
    {
      eps = 1e-5,
      affine = true,
      bias = true,
      ...options
    }: FactoryOptions & { eps?: number; affine?: boolean; bias?: boolean } = {},
  ) {
    super();
    this.weight = affine ? constantParameter([features], 1, options) : null;
    this.bias = affine && bias ? constantParameter([features], 0, options) : null;
    this.eps = eps;
    this.#shape = [features];
  }

  /** x (B, D) -> (B, D). */
  forward(x: Tensor): Tensor {
    return ops.layer_norm(x, this.#shape, this.weight, this.bias, this.eps);
  }
}

/** x / sqrt(mean(x^2) + eps) * weight over the last dimension, rounded as Hugging Face's Qwen2RMSNorm and LlamaRMSNorm do. weight (D). */
export class RMSNorm extends Module {
  weight: Tensor;
  readonly eps: number;

  constructor(features: number, { eps = 1e-6, ...options }: FactoryOptions & { eps?: number } = {}) {
    super();
    this.weight = constantParameter([features], 1, options);
    this.eps = eps;
  }

  /** x (B, D) -> (B, D). */
  forward(x: Tensor): Tensor {
    // In half precision ATen's fused form multiplies by the weight in float32 and rounds once; Hugging Face rounds to x's dtype before the
    // product. A quarter of all bf16 outputs would differ.
    return rmsNorm(x, this.weight, this.eps);
  }
}

/** As torch.nn.GroupNorm. weight and bias (C). */
export class GroupNorm extends Module {
  weight: Tensor;
  bias: Tensor;
  readonly groups: number;
  readonly eps: number;

  constructor(groups: number, channels: number, { eps = 1e-5, ...options }: FactoryOptions & { eps?: number } = {}) {
    super();
    this.weight = constantParameter([channels], 1, options);
    this.bias = constantParameter([channels], 0, options);
    this.groups = groups;
    this.eps = eps;
  }

  /** x (N, C, ...) -> the same. */
  forward(x: Tensor): Tensor {
    return ops.group_norm(x, this.groups, this.weight, this.bias, this.eps);
  }
}
