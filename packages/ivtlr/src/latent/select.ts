/** Which image tokens a latent step takes. Shapes: N image tokens of a row, K patches. */
import { cat, fromBytes, type Generator, stack, type Tensor, toDevice } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { UserError } from '../errors.ts';
import { indexTensor } from '../models/common/index-tensor.ts';
import type { LatentOptions } from './options.ts';

/** What a user wants a latent step to pick: indices of image tokens. */
export interface PatchWishes {
  /** Picked before all others, in this order. */
  forced: readonly number[];
  /** Never picked. */
  forbidden: readonly number[];
}

/** What a latent step of a row may pick, as far as it is known without its scores. */
export interface PickPlan {
  /** One byte an image token, 1 for those that earlier steps took; picking marks what it takes. */
  used: Uint8Array;
  forced: readonly number[];
  /** Image tokens that are not chosen by score: the forced ones, and those that may not be picked. */
  closed: ReadonlySet<number>;
  /** How many are chosen by score. */
  count: number;
  options: LatentOptions;
  /** For random patches; default: the device's own. */
  generator: Generator | null;
}

/**
 * Plans the picks of a row: the image tokens that are forced, then the best unused ones up to K; fewer only with `onExhausted: 'fewer'`.
 * @param step counted from 0, for errors
 * @throws UserError when tokens run out and the policy is `error`, or `reuse` finds an image of fewer than K tokens
 */
export function planPicks(
  used: Uint8Array,
  step: number,
  options: LatentOptions,
  generator: Generator | null = null,
  { forced, forbidden }: PatchWishes = NO_WISHES,
): PickPlan {
  const { patches, onExhausted, allowRepeats } = options;
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
  return { used, forced, closed, count, options, generator };
}

const NO_WISHES: PatchWishes = { forced: [], forbidden: [] };

/** A row's plan and the attention probabilities of its image tokens, (N) float. */
export interface PickRow {
  plan: PickPlan;
  scores_N: Tensor;
}

export interface Picked {
  /** Image-token indices in pick order. */
  indices: number[];
  /** The same, (K) int64 on the device of the scores; null when nothing was picked. */
  index: Tensor | null;
}

/** Picks for all rows, reads the picks of all of them at once and marks them used. Call inside a scope and without grad. */
export function pickImageTokens(rows: readonly PickRow[]): Picked[] {
  if (rows.length === 0) return [];
  const { device } = rows[0]!.scores_N;
  const chosen = new Map<PickRow, Tensor>();
  const choosing = rows.filter(({ plan }) => plan.count > 0);
  const groups = alikeRows(choosing);
  const scores = scoresOf(groups, randomScores(choosing, device), device);
  const picked = groups.map((group, g) => {
    const { count, options } = group[0]!.plan;
    // The official code's own call: unsorted top-k, whose order within a row the kernel decides.
    const [, index] = scores[g]!.topk(count, -1, true, options.pickOrder === 'score');
    const ordered = options.pickOrder === 'position' ? ops.sort(index)[0] : index;
    group.forEach((row, i) => {
      chosen.set(row, ordered.select(0, i));
    });
    return ordered.flatten();
  });
  const read = picked.length === 0 ? [] : (picked.length === 1 ? picked[0]! : cat(picked)).toNumbers();
  const numbers = new Map<PickRow, number[]>();
  for (const row of groups.flat()) numbers.set(row, read.splice(0, row.plan.count));
  const allForced = rows.flatMap(({ plan }) => plan.forced);
  const forced = allForced.length > 0 ? indexTensor(allForced, device) : null;
  let at = 0;
  return rows.map((row) => {
    const { plan } = row;
    const indices = [...plan.forced, ...(numbers.get(row) ?? [])];
    for (const index of indices) plan.used[index] = 1;
    const parts: Tensor[] = [];
    if (plan.forced.length > 0) parts.push(forced!.narrow(0, at, plan.forced.length));
    at += plan.forced.length;
    if (chosen.has(row)) parts.push(chosen.get(row)!);
    return { indices, index: parts.length === 0 ? null : parts.length === 1 ? parts[0]! : cat(parts) };
  });
}

/** Rows that one call of top-k serves: padding would change the order in which its kernel gives what it finds. */
function alikeRows(rows: readonly PickRow[]): PickRow[][] {
  const groups = new Map<string, PickRow[]>();
  for (const row of rows) {
    const { used, count, options } = row.plan;
    const key = `${used.length} ${count} ${options.pickOrder}`;
    const group = groups.get(key);
    if (group) group.push(row);
    else groups.set(key, [row]);
  }
  return [...groups.values()];
}

/** (rows, N) a group: what decides, below 0 where an image token was used, and lower still where it may not be picked. */
function scoresOf(
  groups: readonly (readonly PickRow[])[],
  drawn: ReadonlyMap<PickRow, Tensor>,
  device: string,
): Tensor[] {
  const rows = groups.flat();
  const masks = [
    maskOf(rows, ({ plan }, mask) => !plan.options.allowRepeats && mask.set(plan.used)),
    maskOf(rows, ({ plan }, mask) => {
      for (const index of plan.closed) mask[index] = 1;
    }),
  ].flatMap((bits, closed) => (bits.some(Boolean) ? [{ bits, closed: closed === 1 }] : []));
  const size = rows.reduce((sum, { plan }) => sum + plan.used.length, 0);
  const sent =
    masks.length === 0
      ? null
      : toDevice(fromBytes(Buffer.concat(masks.map(({ bits }) => bits)), 'bool', [masks.length * size]), device);
  let at = 0;
  return groups.map((group) => {
    const shape = [group.length, group[0]!.plan.used.length] as const;
    const own = group.map((row) => drawn.get(row) ?? row.scores_N);
    let scores = own.length === 1 ? own[0]!.unsqueeze(0) : stack(own);
    masks.forEach(({ closed }, m) => {
      const mask = sent!.narrow(0, m * size + at, shape[0] * shape[1]).view(shape);
      // Scores are at least 0. Used ones that come again stay above those that are closed.
      scores = scores.maskedFill(mask, closed ? Number.NEGATIVE_INFINITY : -1);
    });
    at += shape[0] * shape[1];
    return scores;
  });
}

/** One byte an image token of each row, one row behind the other. */
function maskOf(rows: readonly PickRow[], fill: (row: PickRow, mask: Uint8Array) => void): Uint8Array {
  const bits = new Uint8Array(rows.reduce((sum, { plan }) => sum + plan.used.length, 0));
  let at = 0;
  for (const row of rows) {
    fill(row, bits.subarray(at, at + row.plan.used.length));
    at += row.plan.used.length;
  }
  return bits;
}

/** (N) of each row whose patches are random. Numbers of a row's own generator are drawn on the CPU. */
function randomScores(rows: readonly PickRow[], device: string): Map<PickRow, Tensor> {
  const random = rows.filter(({ plan }) => plan.options.latentVision === 'random');
  const result = new Map<PickRow, Tensor>();
  const own = random.filter(({ plan }) => plan.generator !== null);
  if (own.length > 0) {
    const drawn = own.map(({ plan }) => ops.rand_generator([plan.used.length], plan.generator!));
    const sent = toDevice(drawn.length === 1 ? drawn[0]! : cat(drawn), device);
    let at = 0;
    for (const row of own) {
      result.set(row, sent.narrow(0, at, row.plan.used.length));
      at += row.plan.used.length;
    }
  }
  for (const row of random) if (!result.has(row)) result.set(row, ops.rand_like(row.scores_N));
  return result;
}

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
