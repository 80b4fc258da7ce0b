/** Which image tokens a latent step takes. Shapes: B batch, N image tokens (the longest row's), K patches. */
import { fromBytes, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { UserError } from '../errors.ts';
import type { LatentOptions } from './options.ts';

/** Per row: which image tokens earlier steps have taken. */
export class Used {
  readonly rows: Uint8Array[];
  constructor(tokens: readonly number[]) {
    this.rows = tokens.map((count) => new Uint8Array(count));
  }
  left(row: number): number {
    return this.rows[row]!.reduce((count, used) => count - used, this.rows[row]!.length);
  }
  mark(row: number, picked: readonly number[]): void {
    for (const index of picked) this.rows[row]![index] = 1;
  }
}

/**
 * Takes the K best unused image tokens of every row and marks them used.
 * @param scores_BN float; columns beyond a row's own tokens are ignored
 * @returns per row the image-token indices in pick order; fewer than K only with `onExhausted: 'fewer'`
 * @throws UserError when tokens run out and the policy is `error`, or `reuse` finds an image of fewer than K tokens
 */
export function selectPatches(scores_BN: Tensor, used: Used, step: number, options: LatentOptions): number[][] {
  const { patches, pickOrder, onExhausted, allowRepeats, latentVision } = options;
  const picks = used.rows.map((row, b) => {
    const tokens = row.length;
    const left = allowRepeats ? tokens : used.left(b);
    let count = patches;
    if (left < patches) {
      if (onExhausted === 'error' || (onExhausted === 'reuse' && tokens < patches)) {
        throw new UserError(
          `latent step ${step + 1} wants ${patches} image tokens, but ${left} of the image's ${tokens} are unpicked: use fewer patches or latent steps, a larger image, or onExhausted: fewer`,
        );
      }
      if (onExhausted === 'fewer') count = left;
    }
    if (count === 0) return [];
    let scores = scores_BN.select(0, b).narrow(0, 0, tokens);
    if (latentVision === 'random') scores = ops.rand_like(scores);
    if (!allowRepeats) {
      const mask = fromBytes(row, 'bool', [tokens]).to({ device: scores.device });
      scores = scores.maskedFill(mask, Number.NEGATIVE_INFINITY);
    }
    // The official code's own call: unsorted top-k of a 1-D row, whose order the kernel decides.
    const picked = scores.topk(count, -1, true, pickOrder === 'score')[1].toNumbers();
    return pickOrder === 'position' ? picked.sort((a, z) => a - z) : picked;
  });
  picks.forEach((picked, b) => {
    used.mark(b, picked);
  });
  return picks;
}
