/** Rows that come and go: each is as it would be alone, whatever else runs, in both families. */
import { liveTensorCount, manualSeed, noGrad, randn, scope, setNumThreads } from '@ivtlr/torch';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { RunAgain } from '../../../../test/run-again.ts';
import { TINY_IDS, tinyImage, tinyModel } from '../../../../test/tiny-model.ts';
import { createModel } from '../models/registry.ts';
import type { ProcessedImage, VisionLanguageModel } from '../models/types.ts';
import { tokensOf } from './image-columns.ts';
import { LATENT_DEFAULTS } from './options.ts';
import type { Row, RowRequest } from './row.ts';
import { RowBatch, type RowBatchOptions, type RowEvent } from './row-batch.ts';

setNumThreads(1);

const CODES = 8;
/** Image tokens of a Chameleon of 16 x 16 pixels and two halvings. */
const CHAMELEON_GRID: [number, number] = [4, 4];
const CHAMELEON_IMAGE = 63;

function tinyChameleon(): VisionLanguageModel {
  const codes = Array.from({ length: CODES }, (_, i) => [`IMGIMG${'ABCDEFGH'[i]}Z`, 40 + i] as const);
  const config = {
    ...{ model_type: 'chameleon', hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2 },
    ...{ num_attention_heads: 2, num_key_value_heads: 2, vocab_size: 64, tie_word_embeddings: false },
    vocabulary_map: Object.fromEntries([...codes, ['<image>', CHAMELEON_IMAGE]]),
    vq_config: {
      ...{ embed_dim: 8, num_embeddings: CODES, latent_channels: 8, base_channels: 32 },
      ...{ channel_multiplier: [1, 1, 1], num_res_blocks: 1, resolution: 16 },
    },
  };
  return createModel(config, 7, { dtype: 'float32' });
}

function chameleonImage(seed: number): ProcessedImage {
  manualSeed(seed);
  const [rows, columns] = CHAMELEON_GRID;
  return {
    pixels: randn([1, 3, 16, 16]),
    grid: [1, rows, columns],
    tokens: rows * columns,
    tokenGrid: CHAMELEON_GRID,
    source: { width: 16, height: 16 },
  };
}

interface Family {
  model: VisionLanguageModel;
  imageId: number;
  image(grid: [number, number], seed: number): ProcessedImage;
}

const FAMILIES = {
  'qwen2-vl': (): Family => ({ model: tinyModel({ seed: 3 }), imageId: TINY_IDS.image, image: tinyImage }),
  chameleon: (): Family => ({
    model: tinyChameleon(),
    imageId: CHAMELEON_IMAGE,
    image: (_, seed) => chameleonImage(seed),
  }),
};

const GRIDS: [number, number][] = [
  [3, 4],
  [2, 2],
  [1, 3],
];

/** One row of a plan: what it asks, when it comes, and when it is taken out (in passes), if it is. */
const planned = fc.record({
  arrives: fc.nat(12),
  leaves: fc.option(fc.nat(20), { freq: 4 }),
  before: fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 4 }),
  after: fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 6 }),
  grid: fc.option(fc.constantFrom(...GRIDS), { freq: 5 }),
  /** Further images, where there is one. */
  more: fc.oneof({ weight: 2, arbitrary: fc.constant([]) }, fc.array(fc.constantFrom(...GRIDS), { maxLength: 2 })),
  seed: fc.nat(5),
  latentSteps: fc.nat(4),
  behind: fc.array(fc.integer({ min: 1, max: 30 }), { maxLength: 2 }),
  options: fc.record({
    patches: fc.integer({ min: 1, max: 6 }),
    pickOrder: fc.constantFrom('kernel', 'score', 'position'),
    onExhausted: fc.constantFrom('fewer', 'fewer', 'reuse', 'error'),
    allowRepeats: fc.boolean(),
    hideImageFromLatents: fc.boolean(),
    latentMemory: fc.constantFrom('all', 'last'),
    hideImageFromText: fc.boolean(),
    latentText: fc.constantFrom('on', 'on', 'off', 'zero'),
    latentVision: fc.constantFrom('on', 'on', 'off', 'zero', 'random'),
    positions: fc.constantFrom('sequential', 'mrope'),
    maxNewTokens: fc.integer({ min: 0, max: 6 }),
    eosIds: fc.constantFrom([], [5, 9, 17, 30, 31, 44]),
    logprobs: fc.constantFrom(undefined, 0, 3),
  }),
  sampling: fc.option(
    fc.record({
      repetitionPenalty: fc.constantFrom(1, 1, 1.3, 0.8),
      temperature: fc.constantFrom(0, 0.5, 1, 2),
      topK: fc.constantFrom(0, 0, 1, 7, 100),
      topP: fc.constantFrom(1, 1, 0.9, 0.4),
      minP: fc.constantFrom(0, 0, 0.1),
    }),
    { nil: undefined },
  ),
  /** By latent step: image tokens, of which those that the row has are forced and forbidden. */
  wishes: fc.array(
    fc.tuple(fc.uniqueArray(fc.nat(11), { maxLength: 3 }), fc.uniqueArray(fc.nat(11), { maxLength: 3 })),
    {
      maxLength: 3,
    },
  ),
});
type Planned = typeof planned extends fc.Arbitrary<infer T> ? T : never;

function requestOf(plan: Planned, { imageId, image }: Family): RowRequest {
  const grids = plan.grid ? [plan.grid, ...plan.more] : [];
  const images = grids.map((grid, i) => image(grid, plan.seed + 10 * i));
  const imageTokens = tokensOf(images);
  const options = { ...LATENT_DEFAULTS, ...plan.options, trace: true, firstLogits: true, traceText: plan.seed === 0 };
  if (imageId === CHAMELEON_IMAGE) options.positions = 'sequential';
  // Such a step would insert nothing, which is refused when the row is made.
  if (options.latentText === 'off' && options.latentVision === 'off') options.latentText = 'on';
  const { sampling, seed, latentSteps } = plan;
  const wishes = plan.wishes.slice(0, latentSteps).map(([forced, forbidden]) => {
    const within = (list: readonly number[]) => list.filter((index) => index < imageTokens);
    const most = options.latentVision === 'off' ? 0 : options.patches;
    const force = within(forced).slice(0, most);
    return { force, forbid: within(forbidden).filter((index) => !force.includes(index)) };
  });
  const forcePatches = wishes.map(({ force }) => force);
  const forbidPatches = wishes.map(({ forbid }) => forbid);
  return {
    promptIds: [
      ...plan.before,
      ...images.flatMap(({ tokens }, i) => [...(i > 0 ? [7] : []), ...new Array<number>(tokens).fill(imageId)]),
      ...plan.after,
    ],
    images,
    imageKeys: grids.map((grid, i) => `${plan.seed + 10 * i} ${grid}`),
    latentSteps: plan.latentSteps,
    afterLatentIds: plan.behind,
    options: { ...options, seed, ...(sampling && { sampling }), forcePatches, forbidPatches },
  };
}

function outcome(row: Row, events: readonly RowEvent[]) {
  const own = events.filter((event) => event.row === row);
  const last = own.at(-1);
  return {
    picked: row.picked,
    forced: row.request.options.forcePatches,
    forbidden: row.request.options.forbidPatches,
    tokens: row.tokens,
    end: last?.type === 'error' ? last.error.message : last?.type === 'end' ? last.reason : 'on its way',
    logits: row.firstLogits,
    likeliest: row.logprobs.map(({ id, top }) => [id, ...top.map((one) => one.id)]),
    logprobs: row.logprobs.flatMap(({ logprob, top }) => [logprob, ...top.map((one) => one.logprob)]),
    scores: [...row.traces, ...row.textTraces].map(({ scores }) => scores),
    ratios: [...row.traces, ...row.textTraces].map(({ attentionRatio }) => attentionRatio),
  };
}

/** Runs a plan in one batch. */
function together(plans: readonly Planned[], family: Family, options: RowBatchOptions) {
  return scope(() => {
    const batch = new RowBatch(family.model, options);
    const rows = new Map<number, Row>();
    const waiting = new Map<number, RowRequest>();
    const events: RowEvent[] = [];
    try {
      for (let pass = 0; pass <= 12 || batch.size + waiting.size > 0; pass++) {
        plans.forEach((plan, i) => {
          if (plan.arrives === pass) waiting.set(i, requestOf(plan, family));
          const request = waiting.get(i);
          // Where prompts run in pieces, images are read in pieces too.
          if (request && (options.pieceTokens === undefined || batch.readAhead([request]))) {
            waiting.delete(i);
            rows.set(i, batch.add([request])[0]!);
          }
          if (plan.leaves === pass && rows.has(i)) batch.remove(rows.get(i)!);
        });
        events.push(...batch.step());
      }
      return plans.map((_, i) => outcome(rows.get(i)!, events));
    } finally {
      batch.dispose();
    }
  });
}

function alone(plan: Planned, family: Family) {
  return together([{ ...plan, arrives: 0, leaves: null }], family, {})[0]!;
}

function expectClose(got: readonly number[], wanted: readonly number[], tolerance: number): void {
  expect(got.length).toBe(wanted.length);
  got.forEach((value, i) => {
    expect(Math.abs(value - wanted[i]!)).toBeLessThan(tolerance * Math.max(1, Math.abs(wanted[i]!)));
  });
}

describe.each(Object.entries(FAMILIES))('%s', (_, make) => {
  let family: Family;
  let baseline = 0;
  beforeAll(() => {
    family = make();
    // Rotary tables stay with the model once made.
    const [plan] = fc.sample(planned, { seed: 1, numRuns: 1 }) as [Planned];
    for (const grid of GRIDS) alone({ ...plan, grid }, family);
    baseline = liveTensorCount();
  });
  afterEach(() => expect(liveTensorCount()).toBe(baseline));
  afterAll(() => family.model.module.dispose());

  test('every row is as it would be alone, whoever comes and goes', () => {
    const seen = { removed: 0, errors: 0, ended: 0, drawn: 0, forced: 0, forbidden: 0 };
    const again = new RunAgain();
    fc.assert(
      fc.property(
        fc.array(planned, { minLength: 2, maxLength: 7 }),
        fc.constantFrom<RowBatchOptions>(
          {},
          { pieceTokens: 3 },
          { pieceTokens: 1 },
          { graphs: again, slots: 5, keptImageBytes: 1e6 },
          { keptImageBytes: 3000 },
          { keptImageBytes: 1e6, pieceTokens: 3 },
          { readLate: true },
          { readLate: true, pieceTokens: 3 },
          { readLate: true, keptImageBytes: 1e6, graphs: new RunAgain() },
        ),
        (plans, options) => {
          const results = together(plans, family, options);
          plans.forEach((plan, i) => {
            const got = results[i]!;
            const wanted = alone(plan, family);
            if (got.end === 'on its way') {
              // Taken out before its end: what it did until then is the beginning of what it would have done.
              seen.removed++;
              expect(got.picked).toEqual(wanted.picked.slice(0, got.picked.length));
              expect(got.tokens).toEqual(wanted.tokens.slice(0, got.tokens.length));
              return;
            }
            seen[got.end === 'eos' || got.end === 'length' ? 'ended' : 'errors']++;
            expect([got.end, got.picked, got.tokens]).toEqual([wanted.end, wanted.picked, wanted.tokens]);
            expectClose(got.logits, wanted.logits, 1e-5);
            expect(got.likeliest).toEqual(wanted.likeliest);
            expectClose(got.logprobs, wanted.logprobs, 1e-5);
            if (got.tokens.length > 1 && (plan.sampling?.temperature ?? 0) > 0) seen.drawn++;
            got.forced!.forEach((forced, step) => {
              if (step >= got.picked.length) return;
              expect(got.picked[step]!.slice(0, forced.length)).toEqual(forced);
              if (forced.length > 0) seen.forced++;
            });
            got.forbidden!.forEach((forbidden, step) => {
              if (forbidden.length === 0 || step >= got.picked.length) return;
              seen.forbidden++;
              expect(got.picked[step]!.filter((index) => forbidden.includes(index))).toEqual([]);
            });
            expect(got.scores.length).toBe(wanted.scores.length);
            got.scores.forEach((row, t) => {
              expectClose(row, wanted.scores[t]!, 1e-5);
            });
            expectClose(got.ratios, wanted.ratios, 1e-3);
          });
        },
      ),
      { seed: 20261124, numRuns: 60 },
    );
    // The plans were no idle ones.
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(5);
    expect(again.replayed).toBeGreaterThan(again.recorded);
  });

  test('swapped rows take from the row before them, whoever else runs', () => {
    const [a, b, c, other] = fc.sample(planned, { seed: 4, numRuns: 4 }) as [Planned, Planned, Planned, Planned];
    const swap = (plan: Planned): Planned => ({
      ...plan,
      grid: [3, 4],
      latentSteps: 2,
      options: {
        ...plan.options,
        patches: 3,
        latentText: 'on',
        latentVision: 'on',
        maxNewTokens: 3,
        onExhausted: 'fewer',
      },
    });
    const run = (plans: Planned[], more: Planned[], options: RowBatchOptions, change: object) =>
      scope(() => {
        const batch = new RowBatch(family.model, options);
        try {
          for (const plan of more) batch.add([requestOf(plan, family)]);
          const events = more.length > 0 ? batch.step() : [];
          const requests = plans.map((plan) => requestOf(plan, family));
          for (const { options } of requests) Object.assign(options, change);
          const rows = batch.add(requests);
          while (batch.size > 0) events.push(...batch.step());
          return rows.map((row) => outcome(row, events));
        } finally {
          batch.dispose();
        }
      });
    const plans = [a, b, c].map(swap);
    for (const change of [{ latentVision: 'swap' }, { latentText: 'swap' }]) {
      const wanted = run(plans, [], {}, change);
      // Prompts of different lengths, in pieces: rows wait for the one they take from.
      const got = run(plans, [{ ...other, arrives: 0 }], { pieceTokens: 2 }, change);
      got.forEach((row, i) => {
        expect([row.picked, row.tokens]).toEqual([wanted[i]!.picked, wanted[i]!.tokens]);
        expectClose(row.logits, wanted[i]!.logits, 1e-5);
      });
      const plain = run(plans, [], {}, {});
      expect(wanted.map(({ logits }) => logits)).not.toEqual(plain.map(({ logits }) => logits));
    }
    scope(() => {
      const batch = new RowBatch(family.model);
      const requests = plans.map((plan) => requestOf(plan, family));
      for (const { options } of requests) options.latentVision = 'swap';
      expect(() => batch.add(requests.slice(0, 1))).toThrow(/needs another one/);
      const rows = batch.add(requests);
      batch.remove(rows[1]!);
      const ends = batch.step().map((event) => event.type === 'error' && event.error.message);
      expect(ends).toEqual([expect.stringContaining('has left early'), expect.stringContaining('has left early')]);
      expect(batch.size).toBe(0);
      batch.dispose();
    });
  });

  test('weights that are no numbers, or all zero, are said and not answered with', () => {
    const weight = [...family.model.module.namedParameters()].find(([name]) => name.includes('down_proj'))![1];
    const all = [...family.model.module.namedParameters().values()];
    const plan: Planned = { ...fc.sample(planned, { seed: 9, numRuns: 1 })[0]!, latentSteps: 0 };
    plan.options.maxNewTokens = 2;
    const ask = () => {
      const one = { ...plan, arrives: 0, leaves: null };
      const ends = [{}, { readLate: true }].map((options) => together([one], family, options)[0]!.end);
      expect(ends[1]).toBe(ends[0]);
      return ends[0];
    };
    scope(() => {
      const before = all.map((parameter) => parameter.clone());
      noGrad(() => weight.fill_(Number.NaN));
      expect(ask()).toMatch(/no finite numbers: the weights are damaged/);
      noGrad(() => {
        for (const parameter of all) parameter.fill_(0);
      });
      expect(ask()).toMatch(/all the same number: the weights are probably all zero/);
      noGrad(() => {
        all.forEach((parameter, i) => {
          parameter.copy_(before[i]!);
        });
      });
    });
    expect(ask()).toMatch(/eos|length/);
  });
});

describe('limits', () => {
  let family: Family;
  beforeAll(() => {
    family = FAMILIES['qwen2-vl']();
  });
  afterAll(() => family.model.module.dispose());

  test.each([
    ['latentSteps', Number.NaN],
    ['latentSteps', -1],
    ['patches', 1.5],
    ['maxNewTokens', Number.POSITIVE_INFINITY],
  ])('%s %d is refused', (name, value) => {
    scope(() => {
      const request = requestOf(fc.sample(planned, { seed: 2, numRuns: 1 })[0]!, family);
      const wrong =
        name === 'latentSteps'
          ? { ...request, latentSteps: value }
          : { ...request, options: { ...request.options, [name]: value } };
      const batch = new RowBatch(family.model);
      expect(() => batch.add([wrong])).toThrow(
        new RangeError(`${name} should be a whole number of at least 0, not ${value}`),
      );
      batch.dispose();
    });
  });

  test('a prompt longer than the model has positions for is refused', () => {
    scope(() => {
      const plan = { ...fc.sample(planned, { seed: 2, numRuns: 1 })[0]!, grid: null, latentSteps: 0 };
      const request = requestOf(plan, family);
      const batch = new RowBatch(family.model);
      const long = { ...request, promptIds: new Array<number>(40_000).fill(1) };
      expect(() => batch.add([long])).toThrow(
        /takes 4\d{4} positions .* the model has 32768 \(max_position_embeddings\)/,
      );
      expect(batch.size).toBe(0);
      batch.dispose();
    });
  });
});
