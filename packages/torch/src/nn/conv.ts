/** Conv2d, Conv3d. Shapes: N batch, I input channels, O output channels, G groups, D H W space, k kernel. */
import type { Tensor } from '../core/tensor.ts';
import * as ops from '../ops.gen.ts';
import { type FactoryOptions, uniformParameter } from './init.ts';
import { Module } from './module.ts';

/** One number stands for all dimensions. */
export type Size2 = number | readonly [number, number];
export type Size3 = number | readonly [number, number, number];

export interface ConvOptions<S> extends FactoryOptions {
  stride?: S;
  padding?: S;
  dilation?: S;
  groups?: number;
  bias?: boolean;
}

abstract class Conv extends Module {
  weight: Tensor;
  bias: Tensor | null;
  readonly stride: number[];
  readonly padding: number[];
  readonly dilation: number[];
  readonly groups: number;

  constructor(
    dimensions: number,
    inputs: number,
    outputs: number,
    kernel: number | readonly number[],
    {
      stride = 1,
      padding = 0,
      dilation = 1,
      groups = 1,
      bias = true,
      ...options
    }: ConvOptions<number | readonly number[]>,
  ) {
    super();
    const all = (size: number | readonly number[]) =>
      typeof size === 'number' ? new Array<number>(dimensions).fill(size) : [...size];
    const shape = [outputs, inputs / groups, ...all(kernel)];
    const bound = 1 / Math.sqrt(shape.slice(1).reduce((a, b) => a * b, 1));
    this.weight = uniformParameter(shape, bound, options);
    this.bias = bias ? uniformParameter([outputs], bound, options) : null;
    this.stride = all(stride);
    this.padding = all(padding);
    this.dilation = all(dilation);
    this.groups = groups;
  }
}

/** As torch.nn.Conv2d. weight (O, I/G, k, k), bias (O) or null. */
export class Conv2d extends Conv {
  constructor(inputs: number, outputs: number, kernel: Size2, options: ConvOptions<Size2> = {}) {
    super(2, inputs, outputs, kernel, options);
  }

  /** x (N, I, H, W) -> (N, O, H', W'). */
  forward(x: Tensor): Tensor {
    return ops.conv2d(x, this.weight, this.bias, this.stride, this.padding, this.dilation, this.groups);
  }
}

/** As torch.nn.Conv3d. weight (O, I/G, k, k, k), bias (O) or null. */
export class Conv3d extends Conv {
  constructor(inputs: number, outputs: number, kernel: Size3, options: ConvOptions<Size3> = {}) {
    super(3, inputs, outputs, kernel, options);
  }

  /** x (N, I, D, H, W) -> (N, O, D', H', W'). */
  forward(x: Tensor): Tensor {
    return ops.conv3d(x, this.weight, this.bias, this.stride, this.padding, this.dilation, this.groups);
  }
}
