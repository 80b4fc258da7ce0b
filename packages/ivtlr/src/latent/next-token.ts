/** Chooses the next token of rows that write text. Shapes: n rows, V vocabulary. */
import { argmaxLast, cat, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { UserError } from '../errors.ts';
import { indexTensor } from '../models/common/index-tensor.ts';
import { drawTokens, processLogits } from './logits.ts';
import type { Row } from './row.ts';
import { isGreedy } from './sampling.ts';

/**
 * How likely a token was: natural logarithms of the softmax of the model's own logits, before penalty, temperature and filters, as OpenAI's API and
 * vLLM give them. -Infinity where the logit was.
 */
export interface TokenLogprobs {
  id: number;
  logprob: number;
  /** The likeliest tokens, the likeliest first; the chosen one need not be among them. */
  top: { id: number; logprob: number }[];
}

/**
 * One token a row: the highest logit, or a draw where the row's options say so (logits.ts). Call inside a scope and inference mode.
 * @param logits_nV any float dtype
 * @param highest_n int64: the highest logit of each row, where it is known
 * @returns (n) int64 on the device of the logits, each a row of the vocabulary
 */
export function chooseTokens(logits_nV: Tensor, rows: readonly Row[], highest_n?: Tensor): Tensor {
  const plain = ({ sampling }: Row) => isGreedy(sampling) && sampling.repetitionPenalty === 1;
  const other = rows.flatMap((row, i) => (plain(row) ? [] : [i]));
  if (other.length === 0) return highest_n ?? argmaxLast(logits_nV);
  const { device } = logits_nV;
  const places = other.length === rows.length ? null : indexTensor(other, device);
  const some = other.map((i) => rows[i]!);
  const scores = processLogits(places ? logits_nV.indexSelect(0, places) : logits_nV, some);
  let chosen = argmaxLast(scores);
  const drawing = some.flatMap(({ sampling }, i) => (isGreedy(sampling) ? [] : [i]));
  if (drawing.length > 0) {
    const index = drawing.length === some.length ? null : indexTensor(drawing, device);
    const uniforms = drawing.map((i) => some[i]!.random!.next() / 2 ** 32);
    const drawn = drawTokens(index ? scores.indexSelect(0, index) : scores, uniforms);
    // Logits that are no numbers give an id behind the last one; such a row goes on with the argmax, as one that is greedy does.
    const sound = drawn.lt(logits_nV.shape[1]!);
    chosen = index
      ? ops.index_copy(chosen, 0, index, ops.where_self(sound, drawn, chosen.indexSelect(0, index)))
      : ops.where_self(sound, drawn, chosen);
  }
  return places ? ops.index_copy(highest_n ?? argmaxLast(logits_nV), 0, places, chosen) : chosen;
}

/** What becomes known of a row's chosen token when it is read. */
export interface ReadToken {
  id: number;
  /** Null unless the row asked for them. */
  logprobs: TokenLogprobs | null;
  /** Of the row's first token: (V), empty unless the row asked for them. */
  firstLogits: number[];
  /** Where the first logits are not finite or all alike: such weights are damaged. */
  error: UserError | null;
}

/** What is to be read of tokens that were chosen. */
export interface TokenReading {
  tensors: Tensor[];
  /** @param numbers of the tensors */
  finish(numbers: readonly number[][]): ReadToken[];
}

/**
 * Makes ready on the device all that is to be read of the chosen tokens. Call inside a scope and inference mode.
 * @param chosen_n int64
 * @param first whether it is the row's first token, one a row
 */
export function tokenReading(
  logits_nV: Tensor,
  chosen_n: Tensor,
  rows: readonly Row[],
  first: readonly boolean[],
): TokenReading {
  const n = rows.length;
  const vocabulary = logits_nV.shape[1]!;
  const tensors = [chosen_n];
  const add = (tensor: Tensor) => tensors.push(tensor) - 1;
  const looks = first.some(Boolean);
  if (looks) {
    const highest = ops.amax(logits_nV, [-1], true);
    add(cat([ops.isfinite(highest).flatten().to('int64'), logits_nV.eq(highest).sum(-1)]));
  }
  const wanted = rows.flatMap(({ request }, i) => (request.options.logprobs === undefined ? [] : [i]));
  const counts = wanted.map((i) => Math.min(rows[i]!.request.options.logprobs!, vocabulary));
  const likeliest = wanted.length > 0 ? add(logprobTensor(logits_nV, chosen_n, wanted, Math.max(...counts))) : -1;
  const asked = rows.flatMap(({ request }, i) => (first[i] && request.options.firstLogits ? [i] : []));
  const logitsAt = asked.map((i) => add(logits_nV.select(0, i).to('float32')));
  return {
    tensors,
    finish: (numbers) =>
      rows.map((_, i) => {
        const id = numbers[0]![i]!;
        const error = looks && first[i] ? damaged(numbers[1]![i] !== 0, numbers[1]![n + i]!, vocabulary) : null;
        const at = wanted.indexOf(i);
        const logprobs = at < 0 ? null : logprobsAt(numbers[likeliest]!, at, id, counts);
        const firstLogits = asked.includes(i) ? numbers[logitsAt[asked.indexOf(i)]!]! : [];
        return { id, logprobs, firstLogits, error };
      }),
  };
}

/** (w, 1 + 2 most) float64 of w wanted rows: the chosen token's logarithm, those of the likeliest tokens, and the ids of these. */
function logprobTensor(logits_nV: Tensor, chosen_n: Tensor, wanted: readonly number[], most: number): Tensor {
  const all = wanted.length === chosen_n.shape[0]!;
  const index = all ? null : indexTensor(wanted, logits_nV.device);
  const own = (tensor: Tensor) => (index ? tensor.indexSelect(0, index) : tensor);
  const logits = own(logits_nV).to('float32');
  const chosen = own(chosen_n).unsqueeze(1);
  const [highest, ids] = logits.topk(most);
  const logprobs = cat([logits.gather(1, chosen), highest], 1).sub(ops.logsumexp(logits, [-1], true));
  return cat([logprobs.to('float64'), ids.to('float64')], 1);
}

function logprobsAt(numbers: readonly number[], at: number, id: number, counts: readonly number[]): TokenLogprobs {
  const most = Math.max(...counts);
  const own = numbers.slice(at * (1 + 2 * most), (at + 1) * (1 + 2 * most));
  const top = Array.from({ length: counts[at]! }, (_, k) => ({ id: own[1 + most + k]!, logprob: own[1 + k]! }));
  return { id, logprob: own[0]!, top };
}

function damaged(finite: boolean, alike: number, vocabulary: number): UserError | null {
  if (!finite)
    return new UserError(
      'the first logits are no finite numbers: the weights are damaged, or too large for their dtype',
    );
  if (alike > vocabulary / 2)
    return new UserError('the first logits are all the same number: the weights are probably all zero');
  return null;
}
