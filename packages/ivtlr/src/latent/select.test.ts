import { Generator, liveTensorCount, manualSeed, scope, setNumThreads, tensor } from '@ivtlr/torch';
import { afterEach, describe, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { LATENT_DEFAULTS, type LatentOptions } from './options.ts';
import { checkPatchWishes, type PatchWishes, pickImageTokens, planPicks } from './select.ts';

setNumThreads(1);
const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const SCORES = [0.05, 0.3, 0.1, 0.25, 0.02, 0.28];

/** Runs `steps` selections of K over the same scores; `tokens` says how many of them are a row's own. */
function select(scores: number[][], tokens: number[], steps: number, options: Partial<LatentOptions>): number[][][] {
  return scope(() => {
    const used = tokens.map((count) => new Uint8Array(count));
    const table = tensor(scores);
    return Array.from({ length: steps }, (_, step) => {
      const plans = used.map((row) => planPicks(row, step, { ...LATENT_DEFAULTS, ...options }));
      const rows = plans.map((plan, b) => ({ plan, scores_N: table.select(0, b).narrow(0, 0, plan.used.length) }));
      return pickImageTokens(rows).map(({ indices, index }) => {
        expect(index?.toNumbers() ?? []).toEqual(indices);
        return indices;
      });
    });
  });
}

const one = (steps: number, options: Partial<LatentOptions>) =>
  select([SCORES], [6], steps, options).map((rows) => rows[0]!);

describe('order', () => {
  test('score: the best first', () => {
    expect(one(2, { patches: 3, pickOrder: 'score' })).toEqual([
      [1, 5, 3],
      [2, 0, 4],
    ]);
  });

  test('position: by place in the image', () => {
    expect(one(2, { patches: 3, pickOrder: 'position' })).toEqual([
      [1, 3, 5],
      [0, 2, 4],
    ]);
  });

  test('kernel: the order of unsorted top-k, whatever it is', () => {
    const wanted = scope(() => tensor(SCORES).topk(3, -1, true, false)[1].toNumbers());
    const picked = one(1, { patches: 3, pickOrder: 'kernel' })[0]!;
    expect(picked).toEqual(wanted);
    expect([...picked].sort()).toEqual([1, 3, 5]);
  });
});

describe('when tokens run out', () => {
  test('fewer takes what is left, then nothing', () => {
    expect(one(4, { patches: 4, pickOrder: 'score', onExhausted: 'fewer' })).toEqual([[1, 5, 3, 2], [0, 4], [], []]);
    expect(select([[0.1, 0.2, 0.9]], [2], 1, { patches: 5, pickOrder: 'score', onExhausted: 'fewer' })).toEqual([
      [[1, 0]],
    ]);
  });

  test('reuse fills up with used ones', () => {
    const [first, second] = one(2, { patches: 4, pickOrder: 'score', onExhausted: 'reuse' });
    expect(second!.slice(0, 2)).toEqual([0, 4]);
    expect(second!.slice(2).every((index) => first!.includes(index))).toBe(true);
    expect(new Set(second).size).toBe(4);
  });

  test('reuse cannot take more than there are', () => {
    expect(() => select([SCORES], [3], 1, { patches: 4, onExhausted: 'reuse' })).toThrow(UserError);
  });

  test('error names the step and the numbers', () => {
    expect(() => one(2, { patches: 4, onExhausted: 'error' })).toThrow(
      /latent step 2 wants 4 image tokens, but 2 of the image's 6 are unpicked/,
    );
  });
});

test('repeats, where allowed, come every time', () => {
  const wanted = [1, 5, 3];
  expect(one(3, { patches: 3, pickOrder: 'score', allowRepeats: true })).toEqual([wanted, wanted, wanted]);
});

test('rows choose alone, and never beyond their own tokens', () => {
  const scores = [
    [0.1, 0.2, 0.3, 0.9],
    [0.4, 0.3, 0.2, 0.1],
    [0.9, 0.9, 0.9, 0.9],
  ];
  expect(select(scores, [3, 4, 0], 2, { patches: 2, pickOrder: 'score' })).toEqual([
    [[2, 1], [0, 1], []],
    [[0], [2, 3], []],
  ]);
});

describe('random patches', () => {
  const draw = (seed: number) => {
    manualSeed(seed);
    const scores = Array.from({ length: 2 }, () => Array.from({ length: 24 }, (_, i) => i));
    return select(scores, [24, 20], 3, { patches: 6, latentVision: 'random' });
  };

  test('follow the seed, not the scores', () => {
    expect(draw(1)).toEqual(draw(1));
    expect(draw(1)).not.toEqual(draw(2));
    const tops = draw(3)[0]![0]!.filter((index) => index >= 18).length;
    expect(tops).toBeLessThan(6);
  });

  test('never repeat, and stay within the image', () => {
    for (const [row, tokens] of [
      [0, 24],
      [1, 20],
    ] as const) {
      const all = draw(4).flatMap((rows) => rows[row]!);
      expect(new Set(all).size).toBe(18);
      expect(Math.max(...all)).toBeLessThan(tokens);
    }
  });
});

describe('forced and forbidden tokens', () => {
  /** Steps over the same scores, each with its own wishes. */
  const wish = (wishes: Partial<PatchWishes>[], options: Partial<LatentOptions>, generator: Generator | null = null) =>
    scope(() => {
      const used = new Uint8Array(SCORES.length);
      const all = { ...LATENT_DEFAULTS, pickOrder: 'score', ...options } as const;
      return wishes.map((own, step) => {
        const plan = planPicks(used, step, all, generator, { forced: [], forbidden: [], ...own });
        const [picked] = pickImageTokens([{ plan, scores_N: tensor(SCORES) }]);
        expect(picked!.index!.toNumbers()).toEqual(picked!.indices);
        return picked!.indices;
      });
    });

  test('forced ones come first in their order, the rest by score', () => {
    expect(wish([{ forced: [4, 0] }, {}], { patches: 4 })).toEqual([
      [4, 0, 1, 5],
      [3, 2],
    ]);
    expect(wish([{ forced: [4, 1] }], { patches: 2 })).toEqual([[4, 1]]);
    expect(wish([{ forced: [5, 2] }], { patches: 4, pickOrder: 'position' })).toEqual([[5, 2, 1, 3]]);
  });

  test('forced ones may have been picked before', () => {
    expect(wish([{}, { forced: [1] }], { patches: 2 })).toEqual([
      [1, 5],
      [1, 3],
    ]);
  });

  test('forbidden ones are not picked, only at the step that forbids them', () => {
    expect(wish([{ forbidden: [1, 5] }, {}], { patches: 2 })).toEqual([
      [3, 2],
      [1, 5],
    ]);
    expect(wish([{ forbidden: [1] }, { forbidden: [1] }], { patches: 2, allowRepeats: true })).toEqual([
      [5, 3],
      [5, 3],
    ]);
  });

  test('not when tokens run out either, whatever the policy', () => {
    const forbidden = [0, 1];
    expect(wish([{ forbidden }, { forbidden }], { patches: 3, onExhausted: 'fewer' })).toEqual([[5, 3, 2], [4]]);
    const [first, second] = wish([{ forbidden }, { forbidden }], { patches: 3, onExhausted: 'reuse' });
    expect(first).toEqual([5, 3, 2]);
    expect(second![0]).toBe(4);
    expect(second!.slice(1).every((index) => first!.includes(index))).toBe(true);
    expect(new Set(second).size).toBe(3);
    expect(() => wish([{ forbidden, forced: [2] }], { patches: 5, onExhausted: 'reuse' })).toThrow(
      "latent step 1 wants 4 more image tokens, but 3 of the image's 6 are unpicked and not forbidden",
    );
    expect(() => wish([{ forbidden }], { patches: 5, onExhausted: 'error' })).toThrow(UserError);
  });

  test('random patches fill up around them', () => {
    for (let seed = 0; seed < 20; seed++) {
      const [picked] = wish(
        [{ forced: [4], forbidden: [1] }],
        { patches: 5, latentVision: 'random' },
        new Generator(seed),
      );
      expect(picked![0]).toBe(4);
      expect([...picked!].sort()).toEqual([0, 2, 3, 4, 5]);
    }
  });

  test.each([
    [
      { forcePatches: [[], [6]] },
      'forcePatches of latent step 2: there is no image token 6; the image has tokens 0 to 5',
    ],
    [{ forbidPatches: [[0.5]] }, 'forbidPatches of latent step 1: there is no image token 0.5; the image has'],
    [{ forcePatches: [[], [], [1]] }, 'forcePatches has lists for 3 latent steps, but 2 are taken'],
    [{ forcePatches: [[1, 2, 1]] }, 'forcePatches of latent step 1 names image token 1 twice'],
    [{ forcePatches: [[1]], forbidPatches: [[0, 1]] }, 'latent step 1 both forces and forbids image token 1'],
    [{ forcePatches: [[0, 1, 2, 3]] }, 'names 4 image tokens, but the step picks only 3 (patches)'],
    [{ forcePatches: [[0]], latentVision: 'off' }, 'but the step picks none, since latentVision is off'],
  ] as const)('%o is refused', (wishes, message) => {
    const options = { ...LATENT_DEFAULTS, patches: 3, ...wishes };
    expect(() => checkPatchWishes(options, 2, 6)).toThrow(message);
  });

  test('of a question without an image there are none', () => {
    const options = { ...LATENT_DEFAULTS, forbidPatches: [[0]] };
    expect(() => checkPatchWishes(options, 1, 0)).toThrow('there is no image token 0; the question has no image');
  });
});
