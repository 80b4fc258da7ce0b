/** LinearLayer, Linear, Embedding. Shapes: B any leading sizes, I inputs, O outputs, V entries, D features. */
import type { DType } from '../core/dtype.ts';
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';
import { linear } from './functional.ts';
import { type FactoryOptions, normalParameter, uniformParameter } from './init.ts';
import { Module } from './module.ts';

/**
 * A linear layer, however it keeps its weight: models hold this type, so that a layer with an adapter, or with a quantised weight, can stand where
 * a plain one stood.
 */
export abstract class LinearLayer extends Module {
  /** I */
  abstract readonly inputs: number;
  /** O */
  abstract readonly outputs: number;
  /** Of the inputs it is made for, and of what it gives for them. */
  abstract readonly dtype: DType;
  /** x (B, I) -> (B, O). */
  abstract forward(x: Tensor): Tensor;
}

/** y = x W^T + b, as torch.nn.Linear. weight (O, I), bias (O) or null. */
export class Linear extends LinearLayer {
  weight: Tensor;
  bias: Tensor | null;

  constructor(inputs: number, outputs: number, { bias = true, ...options }: FactoryOptions & { bias?: boolean } = {}) {
    super();
    const bound = 1 / Math.sqrt(Math.max(inputs, 1));
    this.weight = uniformParameter([outputs, inputs], bound, options);
    this.bias = bias ? uniformParameter([outputs], bound, options) : null;
  }

  get inputs(): number {
    return this.weight.shape[1]!;
  }
  get outputs(): number {
    return this.weight.shape[0]!;
  }
  get dtype(): DType {
    return this.weight.dtype;
  }

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
