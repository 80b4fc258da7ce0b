/** Linear, Embedding. Shapes: B any leading sizes, I inputs, O outputs, V entries, D features. */
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';
import { linear } from './functional.ts';
import { type FactoryOptions, normalParameter, uniformParameter } from './init.ts';
import { Module } from './module.ts';

/** y = x W^T + b, as torch.nn.Linear. weight (O, I), bias (O) or null. */
export class Linear extends Module {
  weight: Tensor;
  bias: Tensor | null;

  constructor(inputs: number, outputs: number, { bias = true, ...options }: FactoryOptions & { bias?: boolean } = {}) {
    super();
    const bound = 1 / Math.sqrt(Math.max(inputs, 1));
    this.weight = uniformParameter([outputs, inputs], bound, options);
    this.bias = bias ? uniformParameter([outputs], bound, options) : null;
  }

  /** x (B, I) -> (B, O). */
  forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias);
  }
}

/** Rows of a table, as torch.nn.Embedding. weight (V, D). */
export class Embedding extends Module {
  weight: Tensor;

  constructor(entries: number, features: number, options?: FactoryOptions) {
    super();
    this.weight = normalParameter([entries, features], options);
  }

  /** ids (B) int64 or int32 -> (B, D). */
  forward(ids: Tensor): Tensor {
    return ops.embedding(this.weight, ids);
  }
}
