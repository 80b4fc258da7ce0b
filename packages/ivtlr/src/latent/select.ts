/** Which image tokens a latent step takes. Shapes: N image tokens of a row, K patches. */
import { cat, fromBytes, type Generator, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { UserError } from '../errors.ts';
import type { LatentOptions } from './options.ts';

/**
 * Takes the K best unused image tokens of a row and marks them used.
 * @param scores_N float: attention probabilities of the row's image tokens
 * @param used one byte an image token, 1 for those that earlier steps took
 * @param step counted from 0, for errors
 * @param generator for random patches; default: the device's own
 * @returns image-token indices in pick order; fewer than K only with `onExhausted: 'fewer'`
 * @throws UserError when tokens run out and the policy is `error`, or `reuse` finds an image of fewer than K tokens
 */
export function selectImageTokens(
  scores_N: Tensor,
  used: Uint8Array,
  step: number,
  options: LatentOptions,
  generator: Generator | null = null,
): number[] {
  const { patches, pickOrder, onExhausted, allowRepeats, latentVision } = options;
  const tokens = used.length;
  const left = allowRepeats ? tokens : tokens - used.reduce((sum, taken) => sum + taken, 0);
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
  let scores = scores_N;
  if (latentVision === 'random') {
    scores = generator
      ? ops.rand_generator([tokens], generator).to({ device: scores_N.device })
      : ops.rand_like(scores_N);
  }
  if (!allowRepeats) {
    const mask = fromBytes(used, 'bool', [tokens]).to({ device: scores.device });
    scores = scores.maskedFill(mask, Number.NEGATIVE_INFINITY);
  }
  // The official code's own call: unsorted top-k of a 1-D row, whose order the kernel decides.
  const picked = scores.topk(count, -1, true, pickOrder === 'score')[1].toNumbers();
  if (pickOrder === 'position') picked.sort((a, z) => a - z);
  for (const index of picked) used[index] = 1;
  return picked;
}

/**
 * The rows a latent step inserts: patches first, then the latent text. Parts that an ablation zeroes keep their place.
 * @param vision (.., K, D) input embeddings of the picked image tokens; null when none was picked
 * @param text (.., 1, D) last hidden state
 * @returns (.., K+1, D) for the full method
 * @throws UserError when the options leave nothing to insert
 */
export function insertedRows(vision: Tensor | null, text: Tensor, step: number, options: LatentOptions): Tensor {
  const { latentText, latentVision } = options;
  const parts: Tensor[] = [];
  if (vision) parts.push(latentVision === 'zero' ? ops.zeros_like(vision) : vision);
  if (latentText !== 'off') parts.push(latentText === 'zero' ? ops.zeros_like(text) : text);
  if (parts.length === 0) throw nothingToInsert(step);
  return parts.length === 1 ? parts[0]! : cat(parts, -2);
}

/** For a latent step without latent text whose image has no token left to pick. */
export function nothingToInsert(step: number): UserError {
  return new UserError(
    `latent step ${step + 1} would insert nothing: latentText is off and no image token is left to pick, so use fewer latent steps or patches`,
  );
}

/** @throws UserError for options under which no latent step could insert anything */
export function checkLatentOptions({ latentText, latentVision }: LatentOptions): void {
  if (latentText === 'off' && latentVision === 'off')
    throw new UserError(
      'latentText and latentVision are both off, so a latent step would insert nothing: use zero latent steps instead',
    );
}
