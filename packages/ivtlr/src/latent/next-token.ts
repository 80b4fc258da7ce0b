/** Chooses the next token of rows that write text. Shapes: n rows, V vocabulary. */
import type { Tensor } from '@ivtlr/torch';
import { cat } from '@ivtlr/torch';
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
  if (other.length === 0) return highest_n ?? logits_nV.argmax(-1);
  const { device } = logits_nV;
  const places = indexTensor(other, device);
  const some = other.map((i) => rows[i]!);
  const scores = processLogits(logits_nV.indexSelect(0, places), some);
  let chosen = scores.argmax(-1);
  const drawing = some.flatMap(({ sampling }, i) => (isGreedy(sampling) ? [] : [i]));
  if (drawing.length > 0) {
    const index = indexTensor(drawing, device);
    const uniforms = drawing.map((i) => some[i]!.random!.next() / 2 ** 32);
    const drawn = drawTokens(scores.indexSelect(0, index), uniforms);
    // Logits that are no numbers give an id behind the last one; such a row goes on with the argmax, as one that is greedy does.
    const sound = drawn.lt(logits_nV.shape[1]!);
    chosen = ops.index_copy(chosen, 0, index, ops.where_self(sound, drawn, chosen.indexSelect(0, index)));
  }
  return other.length === rows.length ? chosen : ops.index_copy(highest_n ?? logits_nV.argmax(-1), 0, places, chosen);
}

/**
 * Of rows that ask for it, by their index.
 * @param chosen_n int64
 */
export function logprobsOf(logits_nV: Tensor, chosen_n: Tensor, rows: readonly Row[]): Map<number, TokenLogprobs> {
  const wanted = rows.flatMap(({ request }, i) => (request.options.logprobs === undefined ? [] : [i]));
  const result = new Map<number, TokenLogprobs>();
  if (wanted.length === 0) return result;
  const index = indexTensor(wanted, logits_nV.device);
  const logits = logits_nV.indexSelect(0, index).to('float32');
  const chosen = chosen_n.indexSelect(0, index).unsqueeze(1);
  const counts = wanted.map((i) => Math.min(rows[i]!.request.options.logprobs!, logits.shape[1]!));
  const most = Math.max(...counts);
  const [highest, ids] = logits.topk(most);
  const all = cat([logits.gather(1, chosen), highest], 1).sub(ops.logsumexp(logits, [-1], true));
  // Ids are whole in float64, so that everything is read at once.
  const read = cat([all.to('float64'), chosen.to('float64'), ids.to('float64')], 1).toNumbers();
  const width = 2 * (most + 1);
  wanted.forEach((i, at) => {
    const own = read.slice(at * width, (at + 1) * width);
    const top = Array.from({ length: counts[at]! }, (_, k) => ({ id: own[most + 2 + k]!, logprob: own[k + 1]! }));
    result.set(i, { id: own[most + 1]!, logprob: own[0]!, top });
  });
  return result;
}

/** Errors for rows whose first logits are not finite or all alike, by index in `logits` (n, V): such weights are damaged. */
export function damagedLogits(logits: Tensor, first: readonly number[]): Map<number, UserError> {
  const wrong = new Map<number, UserError>();
  if (first.length === 0) return wrong;
  const highest = ops.amax(logits, [-1], true);
  const finite = ops.isfinite(highest).flatten().toNumbers();
  const alike = logits.eq(highest).sum(-1).toNumbers();
  for (const i of first) {
    if (!finite[i])
      wrong.set(
        i,
        new UserError('the first logits are no finite numbers: the weights are damaged, or too large for their dtype'),
      );
    else if (alike[i]! > logits.shape[1]! / 2)
      wrong.set(i, new UserError('the first logits are all the same number: the weights are probably all zero'));
  }
  return wrong;
}
