/** Which image tokens a latent step takes. Shapes: N image tokens of a row, K patches. */
import { cat, fromBytes, type Generator, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { UserError } from '../errors.ts';
import type { LatentOptions } from './options.ts';

/** What a user wants a latent step to pick: indices of image tokens. */
export interface PatchWishes {
  /** Picked before all others, in this order. */
  forced: readonly number[];
  /** Never picked. */
  forbidden: readonly number[];
}

/**
 * Takes the image tokens of a row that are forced, then the best unused ones up to K, and marks them used.
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
  { forced, forbidden }: PatchWishes = NO_WISHES,
): number[] {
  const { patches, pickOrder, onExhausted, allowRepeats, latentVision } = options;
  const tokens = used.length;
  // Neither what is picked already nor what may not be picked is chosen by score.
  const closed = new Set([...forced, ...forbidden]);
  const open = tokens - closed.size;
  let left = 0;
  for (let index = 0; index < tokens; index++) if ((allowRepeats || used[index] === 0) && !closed.has(index)) left++;
  let count = patches - forced.length;
  if (left < count) {
    if (onExhausted === 'error' || (onExhausted === 'reuse' && open < count)) {
      const wants = closed.size === 0 ? `${patches}` : `${count} more`;
      const may = closed.size === 0 ? 'are unpicked' : 'are unpicked and not forbidden';
      throw new UserError(
        `latent step ${step + 1} wants ${wants} image tokens, but ${left} of the image's ${tokens} ${may}: use fewer patches or latent steps, a larger image, or onExhausted: fewer`,
      );
    }
    if (onExhausted === 'fewer') count = left;
  }
  for (const index of forced) used[index] = 1;
  if (count === 0) return [...forced];
  let scores = scores_N;
  if (latentVision === 'random') {
    scores = generator
      ? ops.rand_generator([tokens], generator).to({ device: scores_N.device })
      : ops.rand_like(scores_N);
  }
  if (!allowRepeats) {
    const mask = fromBytes(used, 'bool', [tokens]).to({ device: scores.device });
    // Scores are at least 0. Used ones that come again stay above those that are closed.
    scores = scores.maskedFill(mask, closed.size > 0 ? -1 : Number.NEGATIVE_INFINITY);
  }
  if (closed.size > 0) {
    const mask = new Uint8Array(tokens);
    for (const index of closed) mask[index] = 1;
    scores = scores.maskedFill(
      fromBytes(mask, 'bool', [tokens]).to({ device: scores.device }),
      Number.NEGATIVE_INFINITY,
    );
  }
  // The official code's own call: unsorted top-k of a 1-D row, whose order the kernel decides.
  const picked = scores.topk(count, -1, true, pickOrder === 'score')[1].toNumbers();
  if (pickOrder === 'position') picked.sort((a, z) => a - z);
  for (const index of picked) used[index] = 1;
  return [...forced, ...picked];
}

const NO_WISHES: PatchWishes = { forced: [], forbidden: [] };

/**
 * @param tokens image tokens of the row; 0 without image
 * @throws UserError for steps that are not taken, tokens outside the image, and wishes that contradict each other
 */
export function checkPatchWishes(
  {
    forcePatches = [],
    forbidPatches = [],
    patches,
    latentVision,
  }: LatentOptions & {
    forcePatches?: readonly (readonly number[])[];
    forbidPatches?: readonly (readonly number[])[];
  },
  latentSteps: number,
  tokens: number,
): void {
  for (const [name, lists] of [
    ['forcePatches', forcePatches],
    ['forbidPatches', forbidPatches],
  ] as const) {
    if (lists.length > latentSteps)
      throw new UserError(`${name} has lists for ${lists.length} latent steps, but ${latentSteps} are taken`);
    lists.forEach((list, step) => {
      const wrong = list.find((index) => !Number.isInteger(index) || index < 0 || index >= tokens);
      if (wrong !== undefined)
        throw new UserError(
          `${name} of latent step ${step + 1}: there is no image token ${wrong}; ${tokens === 0 ? 'the question has no image' : `the image has tokens 0 to ${tokens - 1}`}`,
        );
      const twice = list.find((index, at) => list.indexOf(index) < at);
      if (twice !== undefined)
        throw new UserError(`${name} of latent step ${step + 1} names image token ${twice} twice`);
    });
  }
  forcePatches.forEach((forced, step) => {
    const both = forced.find((index) => forbidPatches[step]?.includes(index));
    if (both !== undefined) throw new UserError(`latent step ${step + 1} both forces and forbids image token ${both}`);
    const most = latentVision === 'off' ? 0 : patches;
    if (forced.length > most)
      throw new UserError(
        `forcePatches of latent step ${step + 1} names ${forced.length} image tokens, but the step picks ${latentVision === 'off' ? 'none, since latentVision is off' : `only ${patches} (patches)`}`,
      );
  });
}

/**
 * Picked image tokens (.., I) as latent vision: all that the prompt gives the decoder of them, or their embeddings (the first D) alone.
 * @param hiddenSize D
 */
export function latentVision(tokens: Tensor, hiddenSize: number, { latentDeepstack }: LatentOptions): Tensor {
  const further = tokens.shape.at(-1)! - hiddenSize;
  if (latentDeepstack === 'on' || further === 0) return tokens;
  return ops.constant_pad_nd(tokens.narrow(-1, 0, hiddenSize), [0, further]);
}

/**
 * The rows a latent step inserts: patches first, then the latent text. Parts that an ablation zeroes keep their place.
 * @param vision (.., K, I) input rows of the picked image tokens; null when none was picked
 * @param text (.., 1, I) last hidden state, as an input row
 * @returns (.., K+1, I) for the full method
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
