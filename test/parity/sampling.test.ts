/** Tokens are chosen as transformers' generate chooses them: its processors, in its order; see README.md for the goldens. */
import { inferenceMode, liveTensorCount, scope, setNumThreads, type Tensor, tensor } from '@ivtlr/torch';
import { afterEach, expect, test } from 'vitest';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { processLogits } from '../../packages/ivtlr/src/latent/logits.ts';
import { chooseTokens, tokenReading } from '../../packages/ivtlr/src/latent/next-token.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { readTogether } from '../../packages/ivtlr/src/latent/read-together.ts';
import { Row } from '../../packages/ivtlr/src/latent/row.ts';
import type { Sampling } from '../../packages/ivtlr/src/latent/sampling.ts';
import { Random } from '../../packages/ivtlr/src/random.ts';
import { type GoldenCase, makeBatch, readGolden, seededModel } from './model.ts';

type Listed = [id: number, value: number][];
interface Case {
  name: string;
  options: Partial<Record<'repetition_penalty' | 'temperature' | 'top_k' | 'top_p' | 'min_p', number>>;
  processors: string[];
  ids: number[][];
  logits: number[][];
  /** By row. */
  probabilities: Listed[];
  top_logprobs: Listed[];
}
interface GreedyCase extends GoldenCase {
  input_ids: number[];
  penalty: number;
  new_tokens: number[];
}

setNumThreads(1);
const goldens = readGolden<{ greedy: GreedyCase[]; cases: Case[] }>('sampling.json');
const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

function samplingOf({ options }: Case): Partial<Sampling> {
  const { repetition_penalty = 1, temperature = 1, top_k = 0, top_p = 1, min_p = 0 } = options;
  return { repetitionPenalty: repetition_penalty, temperature, topK: top_k, topP: top_p, minP: min_p };
}

/** One row of the batch for each row of the case. */
const rowsOf = (golden: Case, seed = 1) =>
  golden.ids.map(
    (promptIds, at) =>
      new Row(
        {
          ...{ promptIds, images: [], latentSteps: 0, afterLatentIds: [] },
          options: {
            ...{ ...LATENT_DEFAULTS, maxNewTokens: 1, eosIds: [], logprobs: 5 },
            ...{ seed: seed + at, sampling: samplingOf(golden) },
          },
        },
        0,
      ),
  );

function expectProbabilities(scores: Tensor, golden: Case): void {
  const got = scores.softmax(-1).tolist() as number[][];
  golden.probabilities.forEach((wanted, row) => {
    expect(got[row]!.flatMap((value, id) => (value > 0 ? [id] : []))).toEqual(wanted.map(([id]) => id));
    for (const [id, value] of wanted) expect(Math.abs(got[row]![id]! / value - 1)).toBeLessThan(1e-5);
  });
}

test('the goldens use every processor, alone and all together', () => {
  expect(new Set(goldens.cases.map(({ processors }) => processors.length))).toEqual(new Set([1, 2, 5]));
  expect(new Set(goldens.cases.flatMap(({ processors }) => processors)).size).toBe(5);
});

test.each(goldens.cases)('$name: the same tokens are left, with the same probabilities', (golden) => {
  scope(() => expectProbabilities(processLogits(tensor(golden.logits), rowsOf(golden)), golden));
});

test('rows of one batch each follow their own options', () => {
  const alike = goldens.cases.filter(({ logits }) => logits[0]!.length === 40);
  expect(alike.length).toBeGreaterThan(10);
  scope(() => {
    const rows = alike.flatMap((golden) => rowsOf(golden));
    const scores = processLogits(tensor(alike.flatMap(({ logits }) => logits)), rows);
    let at = 0;
    for (const golden of alike) {
      expectProbabilities(scores.narrow(0, at, golden.logits.length), golden);
      at += golden.logits.length;
    }
  });
});

/** The first token at which the sum of the probabilities of all up to it is above `u`; null where rounding could decide. */
function invert(listed: Listed, u: number): number | null {
  let sum = 0;
  for (const [id, probability] of listed) {
    sum += probability;
    if (Math.abs(sum - u) < 1e-5 && sum < 1 - 1e-5) return null;
    if (sum > u) return id;
  }
  return listed.at(-1)![0];
}

test.each(goldens.cases)('$name: a draw is the inverse of the distribution at the number of the seed', (golden) => {
  const drawn = new Set<number>();
  let compared = 0;
  for (let seed = 0; seed < 200; seed += golden.ids.length)
    scope(() =>
      inferenceMode(() => {
        const ids = chooseTokens(tensor(golden.logits), rowsOf(golden, seed)).toNumbers();
        ids.forEach((id, row) => {
          const wanted = invert(golden.probabilities[row]!, new Random(seed + row).next() / 2 ** 32);
          drawn.add(id);
          if (wanted === null) return;
          compared++;
          expect(id).toBe(wanted);
        });
      }),
    );
  expect(compared).toBeGreaterThan(150);
  if (golden.probabilities.some(({ length }) => length > 1)) expect(drawn.size).toBeGreaterThan(1);
});

test.each(goldens.cases)('$name: log-probabilities are those of the raw logits', (golden) => {
  scope(() => {
    const rows = rowsOf(golden);
    const logits = tensor(golden.logits);
    const chosen = chooseTokens(logits, rows);
    const reading = tokenReading(logits, chosen, rows, []);
    const got = reading.finish(readTogether(reading.tensors));
    const all = logits.logSoftmax(-1).tolist() as number[][];
    chosen.toNumbers().forEach((id, row) => {
      const { top, ...own } = got[row]!.logprobs!;
      expect(own.id).toBe(id);
      expect(own.logprob).toBeCloseTo(all[row]![id]!, 5);
      expect(top.map((one) => one.id)).toEqual(golden.top_logprobs[row]!.map(([id]) => id));
      top.forEach(({ logprob }, place) => {
        expect(logprob).toBeCloseTo(golden.top_logprobs[row]![place]![1], 5);
      });
    });
  });
});

test.each(goldens.greedy)('$name: the tokens that generate writes', (golden) => {
  const model = seededModel(golden);
  const write = (sampling: Partial<Sampling>) =>
    scope(() => {
      const batch = makeBatch([golden.input_ids], [golden.input_ids.map(() => 1)], [], golden.ids);
      const options = { ...LATENT_DEFAULTS, positions: 'mrope', eosIds: [], maxNewTokens: 12, sampling } as const;
      return generateAll(model, batch, options).tokens[0];
    });
  expect(write({ repetitionPenalty: golden.penalty })).toEqual(golden.new_tokens);
  expect(write({})).not.toEqual(golden.new_tokens);
  model.dispose();
});
