/** Random weights for training from scratch. */
import { type Module, noGrad, scope, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { InitializeParameter } from '../family.ts';

export interface InitializeOptions {
  /** Decoder layers. */
  layers: number;
  tied: boolean;
  /** Further factor of a weight outside the decoder that writes into a residual stream; 1 for all others. */
  residualScale?: (name: string) => number;
}

/**
 * Normal with standard deviation 1/sqrt(fan in), the decoder's layers that write into the residual stream further scaled by
 * 1/sqrt(2 * layers), embeddings .09 when tied and .7 otherwise, biases zero, norms one.
 */
export function initializeWeights(
  module: Module,
  options: InitializeOptions,
  each: InitializeParameter = (_, set) => set(),
): void {
  for (const [name, parameter] of module.namedParameters())
    each(parameter, () => noGrad(() => scope(() => setParameter(name, parameter, options))));
}

function setParameter(
  name: string,
  parameter: Tensor,
  { layers, tied, residualScale = () => 1 }: InitializeOptions,
): void {
  const shape = parameter.shape;
  if (name.includes('norm') || name.includes('ln_q')) parameter.fill_(name.endsWith('bias') ? 0 : 1);
  else if (shape.length === 1) parameter.zero_();
  else if (name.endsWith('embed_tokens.weight')) ops.normal_(parameter, 0, tied ? 0.09 : 0.7);
  else {
    const fanIn = shape.slice(1).reduce((a, b) => a * b);
    const residual = /^model\.layers\..*(o_proj|down_proj)\.weight$/.test(name)
      ? 1 / Math.sqrt(2 * layers)
      : residualScale(name);
    ops.normal_(parameter, 0, residual / Math.sqrt(fanIn));
  }
}
