/** Weights that a conversion must not hand on: a folder made of them would answer nothing, long after the damage. */
import { noGrad, scope, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { UserError } from '../errors.ts';

/** @throws UserError for numbers that are not finite, and for an embedding table of zeros alone */
export function requireSoundWeight(name: string, weight: Tensor, source: string): void {
  const { finite, zero } = noGrad(() =>
    scope(() => ({
      finite: ops.isfinite(weight).all().item() !== 0,
      zero: name.endsWith('embed_tokens.weight') && ops.count_nonzero(weight).item() === 0,
    })),
  );
  if (!finite)
    throw new UserError(
      `${source}: ${name} holds numbers that are not finite: the weights are damaged, or too large for ${weight.dtype}`,
    );
  if (zero) throw new UserError(`${source}: ${name} is all zero: these are no trained weights`);
}
