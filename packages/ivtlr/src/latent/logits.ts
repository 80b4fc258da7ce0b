/**
 * From logits to the next token: the processors of transformers' `generate`, in its order, each row with options of its own, and a draw by the
 * row's own random numbers.
 * Shapes: m rows, V vocabulary.
 */
import { cat, full, type Tensor, tensor, toDevice } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { indexTensor } from '../models/common/index-tensor.ts';
import { isGreedy, type Sampling } from './sampling.ts';

/** What the choice of a row's next token depends on, besides its logits. */
export interface SampledRow {
  sampling: Sampling;
  /** The different ids of its prompt and its answer so far. */
  seen: ReadonlySet<number>;
}

/**
 * Applies each row's options to its logits.
 * @param logits_mV any float dtype
 * @returns (m, V) float32; tokens that may not be drawn have -Infinity
 */
export function processLogits(logits_mV: Tensor, rows: readonly SampledRow[]): Tensor {
  const drawn = ({ sampling }: SampledRow) => !isGreedy(sampling);
  const vocabulary = logits_mV.shape[1]!;
  let scores = penalise(logits_mV.to('float32'), rows);
  const apply = (
    wants: (sampling: Sampling) => boolean,
    body: (some: Tensor, options: readonly Sampling[]) => Tensor,
  ) => {
    scores = onSome(scores, rows, (row) => drawn(row) && wants(row.sampling), body);
  };
  apply(
    ({ temperature }) => temperature !== 1,
    (some, options) => some.div(column(options, ({ temperature }) => temperature, some)),
  );
  apply(({ topK }) => topK > 0 && topK < vocabulary, keepTopK);
  apply(({ topP }) => topP < 1, keepTopP);
  apply(
    ({ minP }) => minP > 0,
    (some, options) => {
      const least = ops.amax(some, [-1], true).add(column(options, ({ minP }) => Math.log(minP), some));
      return some.maskedFill(some.lt(least), Number.NEGATIVE_INFINITY);
    },
  );
  return scores;
}

/**
 * Draws one token a row by inverting the distribution function over the vocabulary in the order of its ids: the first token up to and with which
 * the probabilities sum to more than the row's number.
 * @param scores_mV float32, from `processLogits`
 * @param uniforms one number a row, in [0, 1)
 * @returns (m) int64; V for a row whose scores are no numbers
 */
export function drawTokens(scores_mV: Tensor, uniforms: readonly number[]): Tensor {
  const [rows, vocabulary] = scores_mV.shape as [number, number];
  const sums = ops.cumsum(scores_mV.softmax(-1), -1, 'float64');
  const at = toDevice(tensor(Float64Array.from(uniforms)), scores_mV.device).view([rows, 1]);
  return ops.searchsorted_Tensor(sums, at.mul(sums.narrow(1, vocabulary - 1, 1)), false, true).squeeze(1);
}

function penalise(scores: Tensor, rows: readonly SampledRow[]): Tensor {
  const vocabulary = scores.shape[1]!;
  const places: number[] = [];
  const penalties: number[] = [];
  rows.forEach(({ sampling: { repetitionPenalty }, seen }, i) => {
    if (repetitionPenalty === 1) return;
    for (const id of seen) {
      places.push(i * vocabulary + id);
      penalties.push(repetitionPenalty);
    }
  });
  if (places.length === 0) return scores;
  const flat = scores.flatten();
  const index = indexTensor(places, scores.device);
  const penalty = toDevice(tensor(Float32Array.from(penalties)), scores.device);
  const had = flat.gather(0, index);
  const changed = ops.where_self(had.lt(0), had.mul(penalty), had.div(penalty));
  return flat.scatter(0, index, changed).view(scores.shape);
}

function keepTopK(scores: Tensor, options: readonly Sampling[]): Tensor {
  const [highest] = scores.topk(Math.max(...options.map(({ topK }) => topK)));
  const last = indexTensor(
    options.map(({ topK }) => topK - 1),
    scores.device,
  ).unsqueeze(1);
  return scores.maskedFill(scores.lt(highest.gather(1, last)), Number.NEGATIVE_INFINITY);
}

/** Sorting a large vocabulary takes longer than everything else here, and the tokens that are kept are nearly always among so many. */
const FIRST_SORTED = 1024;

/** @param sorted likeliest tokens that are looked at; all, where they do not reach p. A GPU sorts all sooner than it is asked whether they do. */
function keepTopP(
  scores: Tensor,
  options: readonly Sampling[],
  sorted = Math.max(...options.map(({ topK }) => topK || (scores.device === 'cpu' ? FIRST_SORTED : Infinity))),
): Tensor {
  const vocabulary = scores.shape[1]!;
  const count = Math.min(sorted, vocabulary);
  const [highest, ids] = scores.topk(count);
  const sums = ops.cumsum(scores.softmax(-1).gather(1, ids), -1, 'float64');
  const limits = column(options, ({ topP }) => topP, sums);
  if (count < vocabulary) {
    const enough = sums
      .narrow(1, count - 1, 1)
      .ge(limits)
      .flatten()
      .toNumbers();
    if (enough.some((yes) => !yes)) return keepTopP(scores, options, vocabulary);
  }
  // A token is left out when the likelier ones reach the limit without it; the likeliest never is.
  const before = full([options.length, 1], -1, { dtype: 'float64', device: scores.device });
  const without = cat([before, sums.narrow(1, 0, count - 1)], 1);
  const kept = highest.maskedFill(without.ge(limits), Number.NEGATIVE_INFINITY);
  return full(scores.shape, Number.NEGATIVE_INFINITY, { device: scores.device }).scatter(1, ids, kept);
}

/** Applies `body` to the rows that are wanted and leaves the others as they are. */
function onSome(
  scores: Tensor,
  rows: readonly SampledRow[],
  wanted: (row: SampledRow) => boolean,
  body: (some: Tensor, options: readonly Sampling[]) => Tensor,
): Tensor {
  const places = rows.flatMap((row, i) => (wanted(row) ? [i] : []));
  if (places.length === 0) return scores;
  const options = places.map((i) => rows[i]!.sampling);
  if (places.length === rows.length) return body(scores, options);
  const index = indexTensor(places, scores.device);
  return ops.index_copy(scores, 0, index, body(scores.indexSelect(0, index), options));
}

/** (m, 1) of the dtype and on the device of `like`. */
function column(options: readonly Sampling[], value: (sampling: Sampling) => number, like: Tensor): Tensor {
  const made = tensor(Float64Array.from(options, value)).view([options.length, 1]);
  return toDevice(made.to(like.dtype), like.device);
}
