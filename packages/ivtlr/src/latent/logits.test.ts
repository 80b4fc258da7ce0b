import { cat, liveTensorCount, manualSeed, randn, scope, setNumThreads, tensor } from '@ivtlr/torch';
import { afterEach, describe, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { drawTokens, processLogits } from './logits.ts';
import { chooseTokens } from './next-token.ts';
import { LATENT_DEFAULTS } from './options.ts';
import { Row } from './row.ts';
import { completeSampling, GREEDY, type Sampling } from './sampling.ts';

setNumThreads(1);
const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const rowOf = (sampling: Partial<Sampling>, seed?: number) =>
  new Row(
    {
      ...{ promptIds: [3, 3, 1], images: [], latentSteps: 0, afterLatentIds: [2] },
      options: { ...LATENT_DEFAULTS, maxNewTokens: 4, eosIds: [], sampling, ...(seed !== undefined && { seed }) },
    },
    0,
  );

/** Ids left of each row. */
const left = (logits: number[][], sampling: Partial<Sampling>) =>
  scope(() => {
    const rows = logits.map(() => rowOf({ temperature: 1, ...sampling }));
    const scores = processLogits(tensor(logits), rows).tolist() as number[][];
    return scores.map((row) => row.flatMap((value, id) => (value > Number.NEGATIVE_INFINITY ? [id] : [])));
  });

describe('options', () => {
  test('greedy by default, whatever is left out', () => {
    expect(completeSampling()).toEqual(GREEDY);
    expect(completeSampling({ topP: 0.5 })).toEqual({ ...GREEDY, topP: 0.5 });
  });

  test.each([
    [{ temperature: -1 }, 'temperature should be a number from 0 to 100, not -1'],
    [{ temperature: Number.NaN }, 'temperature should be a number from 0 to 100, not NaN'],
    [{ topK: 1.5 }, 'topK should be a whole number from 0 to 1000000000, not 1.5'],
    [{ topP: 1.01 }, 'topP should be a number from 0 to 1, not 1.01'],
    [{ minP: -0.1 }, 'minP should be a number from 0 to 1, not -0.1'],
    [{ repetitionPenalty: 0 }, 'repetitionPenalty should be a number from 0.01 to 100, not 0'],
  ])('%o is refused', (sampling, message) => {
    expect(() => rowOf(sampling)).toThrow(new UserError(message));
  });
});

describe('filters', () => {
  test('top-k keeps what equals the k-th', () => {
    expect(left([[1, 5, 3, 3, 0]], { topK: 2 })).toEqual([[1, 2, 3]]);
  });

  test('top-p keeps the likeliest one, however small p is, and the one that reaches p', () => {
    const logits = [[0.5, 0.3, 0.2].map(Math.log)];
    expect(left(logits, { topP: 0 })).toEqual([[0]]);
    expect(left(logits, { topP: 0.4 })).toEqual([[0]]);
    expect(left(logits, { topP: 0.6 })).toEqual([[0, 1]]);
    expect(left(logits, { topP: 0.9 })).toEqual([[0, 1, 2]]);
  });

  test('top-p of a large vocabulary, for rows that need few and many tokens together', () => {
    manualSeed(5);
    const [flat, steep] = scope(() => [
      (randn([1, 3000]).mul(0.2).tolist() as number[][])[0]!,
      (randn([1, 3000]).mul(4).tolist() as number[][])[0]!,
    ]);
    for (const topP of [0.2, 0.9]) {
      const together = left([flat!, steep!], { topP });
      [flat!, steep!].forEach((row, at) => {
        const weights = row.map(Math.exp);
        const total = weights.reduce((a, b) => a + b);
        const order = row.map((_, id) => id).sort((a, b) => row[b]! - row[a]!);
        let sum = 0;
        const kept = order.filter((id) => {
          const before = sum;
          sum += weights[id]! / total;
          return before < topP;
        });
        expect(together[at]).toEqual(kept.sort((a, b) => a - b));
      });
    }
    expect(left([flat!], { topP: 0.9 })[0]!.length).toBeGreaterThan(1024);
    expect(left([steep!], { topP: 0.9 })[0]!.length).toBeLessThan(1024);
  });

  test('the penalty is for the different ids of the prompt, what stands behind the latent steps included', () => {
    scope(() => {
      const rows = [rowOf({ repetitionPenalty: 2 }), rowOf({}), rowOf({ repetitionPenalty: 0.5 })];
      rows[2]!.write(0, null);
      const scores = processLogits(tensor([0, 1, 2].map(() => [1, -1, 2, 4, 5])), rows);
      expect(scores.tolist()).toEqual([
        [1, -2, 1, 2, 5],
        [1, -1, 2, 4, 5],
        [2, -0.5, 4, 8, 5],
      ]);
    });
  });
});

describe('draws', () => {
  test('the ends of [0, 1) give the first and the last token that is left, never one that is left out', () => {
    const no = Number.NEGATIVE_INFINITY;
    scope(() => {
      const scores = tensor([
        [no, 0, no, 0, no],
        [no, 0, no, 0, no],
        [no, 0, no, 0, no],
      ]);
      expect(drawTokens(scores, [0, 0.5, 1 - 2 ** -32]).toNumbers()).toEqual([1, 3, 3]);
    });
  });

  test('a seed gives the same tokens among any rows; another seed, or none, others', () => {
    const draw = (others: number, seed: number | undefined) =>
      scope(() => {
        manualSeed(1);
        const own = randn([8, 50]);
        const row = rowOf({ temperature: 1.5, topK: 30 }, seed);
        const rows = [row, ...Array.from({ length: others }, (_, i) => rowOf(i % 2 ? { temperature: 1 } : {}, i))];
        return Array.from({ length: 8 }, (_, step) => {
          const more = Array.from({ length: others }, () => own.narrow(0, step, 1).neg());
          return chooseTokens(cat([own.narrow(0, step, 1), ...more], 0), rows).toNumbers()[0];
        });
      });
    expect(draw(0, 7)).toEqual(draw(5, 7));
    expect(draw(0, 7)).not.toEqual(draw(0, 8));
    // Without a seed torch's own generator gives it, which follows manualSeed.
    expect(draw(0, undefined)).toEqual(draw(0, undefined));
    expect(draw(0, undefined)).not.toEqual(draw(0, 7));
  });

  test('greedy rows among others take the highest logit, after their penalty', () => {
    scope(() => {
      const rows = [rowOf({}), rowOf({ temperature: 1, topK: 1 }, 1), rowOf({ repetitionPenalty: 3 }), rowOf({}, 4)];
      const logits = tensor(rows.map(() => [1, 0, 2, 4, 3]));
      expect(chooseTokens(logits, rows).toNumbers()).toEqual([3, 3, 4, 3]);
      expect(chooseTokens(logits, [rowOf({ temperature: 1e-6, minP: 1 }, 2)].concat(rows.slice(1))).shape).toEqual([4]);
    });
  });

  test('logits that are no numbers give an id of the vocabulary', () => {
    scope(() => {
      const logits = tensor([[0, Number.NaN, 1]]);
      expect(chooseTokens(logits, [rowOf({ temperature: 1, topP: 0.9 }, 1)]).toNumbers()[0]).toBeLessThan(3);
    });
  });
});
