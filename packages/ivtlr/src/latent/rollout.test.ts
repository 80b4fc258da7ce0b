/** What a latent step inserts, under every option, and that the cache changes nothing. */
import { inferenceMode, liveTensorCount, manualSeed, scope, setNumThreads, type Tensor } from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { TINY_IDS, type TinyRow, tinyBatch, tinyModel } from '../../../../test/tiny-model.ts';
import { UserError } from '../errors.ts';
import type { Qwen2VL } from '../models/qwen2-vl/model.ts';
import { ABLATIONS, LATENT_DEFAULTS, type LatentOptions } from './options.ts';
import { type LatentStep, Rollout } from './rollout.ts';
import { type EmbeddedPrompt, embedPrompt, Sequence, toIds } from './sequence.ts';

setNumThreads(1);
let model: Qwen2VL;
let baseline = 0;
beforeAll(() => {
  const before = liveTensorCount();
  model = tinyModel();
  // Rotary tables stay with the model once made.
  scope(() => inferenceMode(() => run([...RAGGED, ROW(4, { grid: [1, 2] })], {}, 1)));
  baseline = liveTensorCount();
  expect(baseline).toBeGreaterThan(before);
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => model.dispose());

const ROW = (seed: number, more: Partial<TinyRow> = {}): TinyRow => ({
  before: [1, 2],
  after: [3 + seed, 7, 9],
  grid: [3, 4],
  latentSteps: 0,
  seed,
  ...more,
});

const RAGGED = [ROW(1), ROW(2, { before: [4, 5, 6, 7], grid: [2, 2] }), ROW(3, { after: [8], grid: [1, 3] })];

interface Run {
  prompt: EmbeddedPrompt;
  steps: LatentStep[];
  rollout: Rollout;
}

/** Cached latent steps, the last of them inserted too. Inside a scope. */
function run(rows: TinyRow[], options: Partial<LatentOptions>, steps: number): Run {
  const all: LatentOptions = { ...LATENT_DEFAULTS, patches: 3, ...options };
  const prompt = embedPrompt(model, tinyBatch(rows), all.positions);
  const cache = model.newCache(rows.length, 100);
  try {
    const sequence = new Sequence(model, prompt, cache, all);
    const rollout = new Rollout(sequence, all, { detach: false, attentionScores: 'detached' });
    return { prompt, steps: rollout.run(steps), rollout };
  } finally {
    cache.dispose();
  }
}

/** The sequence so far in one uncached pass. */
function uncached(
  prompt: EmbeddedPrompt,
  steps: LatentStep[],
  options: Partial<LatentOptions> = {},
  ids: number[][] = [],
) {
  const sequence = new Sequence(model, prompt, null, options);
  for (const { inserted, mask } of steps) sequence.push(inserted, { mask, latent: true });
  if (ids.length > 0) sequence.push(model.embed(toIds(ids, 'cpu')));
  return sequence.run('detached');
}

const numbers = (t: Tensor) => t.toNumbers();
function expectClose(got: Tensor, wanted: Tensor, tolerance = 1e-5): void {
  expect(got.shape).toEqual(wanted.shape);
  expect(got.sub(wanted).abs().max().item()).toBeLessThan(tolerance);
}

/** (K, D) embeddings of a row's image tokens in pick order. */
const tokens = (prompt: EmbeddedPrompt, b: number, picked: number[]) =>
  picked.map((index) => numbers(prompt.images!.select(0, b).select(0, index)));
/** Rows [from, to) of what a step inserted into row b. */
const rowsOf = (step: LatentStep, b: number, from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => numbers(step.inserted.select(0, b).select(0, from + i)));

const check = (body: () => void) => () => scope(() => inferenceMode(body));

describe.each([
  ['plain', [ROW(1), ROW(2)], {}],
  ['ragged', RAGGED, {}],
  ['ragged, hidden image', RAGGED, { hideImageFromLatents: true }],
  ['ragged, mrope', RAGGED, { positions: 'mrope' }],
  ['one row, hidden image', [ROW(4)], { hideImageFromLatents: true, pickOrder: 'score' }],
  ['ragged, memory of one step', RAGGED, { latentMemory: 'last' }],
  ['ragged, memory of one step, more patches than some have', RAGGED, { latentMemory: 'last', patches: 5 }],
  ['without latent text', [ROW(1), ROW(2, { before: [5] })], { latentText: 'off' }],
  ['without latent vision', RAGGED, { latentVision: 'off' }],
  ['a row without image', [ROW(1), ROW(2, { grid: null })], {}],
] as [string, TinyRow[], Partial<LatentOptions>][])('cached equals uncached: %s', (_, rows, options) => {
  test(
    'scores and hidden states of every step',
    check(() => {
      const { prompt, steps } = run(rows, options, 3);
      steps.forEach((step, t) => {
        const { hidden, scores } = uncached(prompt, steps.slice(0, t), options);
        expectClose(step.scores, scores!);
        expectClose(step.scores.sum(1), step.scores.sum(1).mul(0).add(1), 1e-4);
        if (options.latentText !== 'off')
          expectClose(step.inserted.select(1, -1), hidden.select(1, hidden.shape[1]! - 1), 1e-4);
      });
    }),
  );
});

test(
  'the definition: best unused image tokens, their input embeddings, then the last hidden state',
  check(() => {
    const { prompt, steps } = run([ROW(1), ROW(2)], { pickOrder: 'score' }, 3);
    const used = [new Set<number>(), new Set<number>()];
    steps.forEach((step, t) => {
      expect(step.mask).toBeNull();
      expect(step.inserted.shape).toEqual([2, 4, 16]);
      const { hidden, scores } = uncached(prompt, steps.slice(0, t));
      for (const b of [0, 1]) {
        const image = numbers(scores!.select(0, b)).slice(2, 14);
        const wanted = image
          .map((score, index) => ({ score, index }))
          .filter(({ index }) => !used[b]!.has(index))
          .sort((x, y) => y.score - x.score)
          .slice(0, 3)
          .map(({ index }) => index);
        expect(step.picked[b]).toEqual(wanted);
        for (const index of wanted) used[b]!.add(index);
        expect(rowsOf(step, b, 0, 3)).toEqual(tokens(prompt, b, wanted));
        const last = hidden.select(0, b).select(0, hidden.shape[1]! - 1);
        expectClose(step.inserted.select(0, b).select(0, 3), last, 1e-4);
        expectClose(step.imageScores!.select(0, b), scores!.select(0, b).narrow(0, 2, 12));
      }
    });
    // Embeddings, not hidden states, and those of the prompt itself.
    expectClose(prompt.images!.select(0, 0), prompt.rows.select(0, 0).narrow(0, 2, 12));
  }),
);

test(
  'ragged rows are padded in front, so that the last inserted row always counts',
  check(() => {
    const { prompt, steps } = run([ROW(1), ROW(2, { grid: [2, 2] })], {}, 2);
    expect(steps[0]!.mask).toBeNull();
    expect(steps[1]!.picked.map((row) => row.length)).toEqual([3, 1]);
    expect(steps[1]!.mask).toEqual([
      [1, 1, 1, 1],
      [0, 0, 1, 1],
    ]);
    expect(rowsOf(steps[1]!, 1, 2, 3)).toEqual(tokens(prompt, 1, steps[1]!.picked[1]!));
  }),
);

describe('hideImageFromLatents', () => {
  test(
    'changes the latent rows, not the scores of the first step',
    check(() => {
      const open = run([ROW(1)], {}, 2).steps;
      const hidden = run([ROW(1)], { hideImageFromLatents: true }, 2).steps;
      expectClose(hidden[0]!.scores, open[0]!.scores);
      expect(hidden[1]!.inserted.select(1, -1).sub(open[1]!.inserted.select(1, -1)).abs().max().item()).toBeGreaterThan(
        1e-3,
      );
      expect(hidden[1]!.imageScores!.sum().item()).toBeGreaterThan(0.01); // scores still see the image
    }),
  );

  test(
    'hides the image tokens: moving one that was not picked changes no latent row, but later text',
    check(() => {
      const options = { hideImageFromLatents: true, patches: 2 };
      const { prompt, steps } = run([ROW(1)], options, 1);
      const other = Array.from({ length: 12 }, (_, i) => i).find((i) => !steps[0]!.picked[0]!.includes(i))!;
      // The prompt's own rows are kept, so only what latent rows and text see of the changed token differs.
      const logits = (hide: boolean, change: boolean) => {
        const cache = model.newCache(1, 100);
        const sequence = new Sequence(model, prompt, cache, { hideImageFromLatents: hide });
        sequence.run();
        if (change) for (const part of changeable(cache)) part.narrow(2, 2 + other, 1).mul_(-3);
        sequence.push(steps[0]!.inserted, { latent: true });
        const latent = sequence.run().hidden;
        sequence.push(model.embed(toIds([[5]], 'cpu')));
        const text = sequence.run().hidden;
        cache.dispose();
        return { latent, text };
      };
      const same = logits(true, true).latent.sub(logits(true, false).latent).abs().max().item();
      expect(same).toBe(0);
      expect(logits(false, true).latent.sub(logits(false, false).latent).abs().max().item()).toBeGreaterThan(1e-4);
      expect(logits(true, true).text.sub(logits(true, false).text).abs().max().item()).toBeGreaterThan(1e-4);
    }),
  );
});

/** The key rows a cache holds, one a layer: appending nothing gives them out. */
function changeable(cache: ReturnType<Qwen2VL['newCache']>): Tensor[] {
  return [0, 1].map((layer) => {
    const none = model
      .embed(toIds([[1]], 'cpu'))
      .view([1, 1, 2, 8])
      .narrow(2, 0, 0);
    return cache.append(layer, none, none).values;
  });
}

describe('ablations do what they say', () => {
  const rows = [ROW(1), ROW(2)];
  const full = () => run(rows, { pickOrder: 'score' }, 1);
  const ablated = (name: string, steps = 1) => run(rows, { pickOrder: 'score', ...ABLATIONS[name]!.options }, steps);
  const zeros = (count: number) => Array.from({ length: count }, () => new Array<number>(16).fill(0));

  test('every name is tested here', () => {
    expect(Object.keys(ABLATIONS)).toEqual([
      'full',
      'zero-latents',
      'text-zeroed',
      'text-swapped',
      'last-text-swapped',
      'no-latent-text',
      'patches-zeroed',
      'patches-swapped',
      'random-patches',
      'no-latent-vision',
      'repeats-allowed',
    ]);
    expect(ABLATIONS.full!.options).toEqual({});
    expect(ABLATIONS['zero-latents']).toMatchObject({ latentSteps: 0, options: {} });
    for (const [name, { latentSteps }] of Object.entries(ABLATIONS))
      expect(latentSteps === 0).toBe(name === 'zero-latents');
  });

  test(
    'text-zeroed',
    check(() => {
      const [[base], [step]] = [full().steps, ablated('text-zeroed').steps] as [[LatentStep], [LatentStep]];
      expect(rowsOf(step, 0, 3, 4)).toEqual(zeros(1));
      expect(rowsOf(step, 1, 0, 3)).toEqual(rowsOf(base, 1, 0, 3));
    }),
  );

  test(
    'text-swapped: the neighbour row',
    check(() => {
      const [[base], [step]] = [full().steps, ablated('text-swapped').steps] as [[LatentStep], [LatentStep]];
      expect(rowsOf(step, 0, 3, 4)).toEqual(rowsOf(base, 1, 3, 4));
      expect(rowsOf(step, 1, 3, 4)).toEqual(rowsOf(base, 0, 3, 4));
      expect(rowsOf(step, 0, 0, 3)).toEqual(rowsOf(base, 0, 0, 3));
      expect(rowsOf(base, 0, 3, 4)).not.toEqual(rowsOf(base, 1, 3, 4));
    }),
  );

  test(
    'no-latent-text: K rows',
    check(() => {
      const [[base], [step]] = [full().steps, ablated('no-latent-text').steps] as [[LatentStep], [LatentStep]];
      expect(step.inserted.shape).toEqual([2, 3, 16]);
      expect(rowsOf(step, 1, 0, 3)).toEqual(rowsOf(base, 1, 0, 3));
    }),
  );

  test(
    'patches-zeroed: K zero rows, picks as ever',
    check(() => {
      const [[base], [step]] = [full().steps, ablated('patches-zeroed').steps] as [[LatentStep], [LatentStep]];
      expect(rowsOf(step, 0, 0, 3)).toEqual(zeros(3));
      expect(rowsOf(step, 0, 3, 4)).toEqual(rowsOf(base, 0, 3, 4));
      expect(step.picked).toEqual(base.picked);
    }),
  );

  test(
    'patches-swapped: the neighbour row, with its own number of patches',
    check(() => {
      const [[base], [step]] = [full().steps, ablated('patches-swapped').steps] as [[LatentStep], [LatentStep]];
      expect(rowsOf(step, 0, 0, 3)).toEqual(rowsOf(base, 1, 0, 3));
      expect(rowsOf(step, 1, 0, 3)).toEqual(rowsOf(base, 0, 0, 3));
      expect(rowsOf(step, 0, 3, 4)).toEqual(rowsOf(base, 0, 3, 4));
      const { prompt, steps } = run([ROW(1), ROW(2, { grid: [1, 2] })], { latentVision: 'swap' }, 1);
      expect(steps[0]!.mask).toEqual([
        [0, 1, 1, 1],
        [1, 1, 1, 1],
      ]);
      expect(rowsOf(steps[0]!, 0, 1, 3)).toEqual(tokens(prompt, 1, steps[0]!.picked[1]!));
    }),
  );

  test(
    'random-patches: by the seed, never twice',
    check(() => {
      const draw = (seed: number) => {
        manualSeed(seed);
        const { prompt, steps } = run(rows, ABLATIONS['random-patches']!.options, 4);
        expect(rowsOf(steps[2]!, 1, 0, 3)).toEqual(tokens(prompt, 1, steps[2]!.picked[1]!));
        return steps.map(({ picked }) => picked);
      };
      // The prompts' pixels are drawn from seeds of their own; reseed after them.
      const seeded = (seed: number) => {
        const prompt = embedPrompt(model, tinyBatch(rows), 'sequential');
        const cache = model.newCache(2, 100);
        const options = { ...LATENT_DEFAULTS, patches: 3, ...ABLATIONS['random-patches']!.options };
        const rollout = new Rollout(new Sequence(model, prompt, cache), options, {
          detach: false,
          attentionScores: 'detached',
        });
        manualSeed(seed);
        const picked = rollout.run(4).map((step) => step.picked);
        cache.dispose();
        return picked;
      };
      expect(seeded(1)).toEqual(seeded(1));
      expect(seeded(1)).not.toEqual(seeded(2));
      for (const b of [0, 1]) expect(new Set(draw(3).flatMap((picked) => picked[b]!)).size).toBe(12);
    }),
  );

  test(
    'no-latent-vision: one row a step',
    check(() => {
      const [[base], { steps }] = [full().steps as [LatentStep], ablated('no-latent-vision', 2)];
      expect(steps.map(({ inserted }) => inserted.shape)).toEqual([
        [2, 1, 16],
        [2, 1, 16],
      ]);
      expect(steps[0]!.picked).toEqual([[], []]);
      expect(rowsOf(steps[0]!, 0, 0, 1)).toEqual(rowsOf(base, 0, 3, 4));
    }),
  );

  test(
    'repeats-allowed: used tokens compete again',
    check(() => {
      const { steps } = ablated('repeats-allowed', 3);
      let repeated = 0;
      const seen = new Set<number>();
      for (const step of steps) {
        const image = numbers(step.imageScores!.select(0, 0));
        const wanted = image.map((_, i) => i).sort((a, z) => image[z]! - image[a]!);
        expect(step.picked[0]).toEqual(wanted.slice(0, 3));
        repeated += step.picked[0]!.filter((index) => seen.has(index)).length;
        for (const index of step.picked[0]!) seen.add(index);
      }
      expect(repeated).toBeGreaterThan(0);
    }),
  );
});

test(
  'a step that would insert nothing is refused',
  check(() => {
    expect(() => run([ROW(1)], { latentText: 'off', latentVision: 'off' }, 1)).toThrow(UserError);
    expect(() => run([ROW(1, { grid: [1, 3] })], { latentText: 'off' }, 2)).toThrow(
      /latent step 2 would insert nothing/,
    );
    expect(() => run([ROW(1, { grid: null })], { latentText: 'off' }, 1)).toThrow(/latent step 1 would insert nothing/);
  }),
);

test(
  'a prompt whose image tokens do not fit its image is refused',
  check(() => {
    const batch = tinyBatch([ROW(1)]);
    batch.inputIds[0]![2] = TINY_IDS.eos;
    expect(() => embedPrompt(model, batch, 'sequential')).toThrow('the prompt has 11 image tokens, its images 12');
  }),
);
