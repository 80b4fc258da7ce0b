/** SmolVLM and Idefics3 against Hugging Face transformers: picture features, logits, attention row, greedy tokens, alone and in padded batches. */
import { liveTensorCount, scope, type Tensor } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { UserError } from '../../packages/ivtlr/src/errors.ts';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { embedPrompt, Sequence } from '../../packages/ivtlr/src/latent/sequence.ts';
import { tolerance } from '../device.ts';
import { makeBatch, readGolden, relativeError, type Stats } from './model.ts';
import { type SmolVlmCase, seededSmolVlm, seededSmolVlmImages } from './smolvlm-model.ts';

interface ForwardCase extends SmolVlmCase {
  input_ids: number[][];
  attention_mask: number[][];
  features: Stats[];
  last_logits: number[][];
  probes: { row: number; column: number; logits: number[] }[];
  attention_row: number[][];
  greedy: number[][];
}

const { cases } = readGolden<{ cases: ForwardCase[] }>('smolvlm-forward.json');

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

test('there are enough cases, of both model types', () => {
  expect(cases.length).toBe(13);
  // Several pictures in a row: more pictures than rows that have some.
  expect(cases.filter(({ pictures, input_ids }) => pictures.length > input_ids.length - 1).length).toBeGreaterThan(1);
  expect(cases.map(({ input_ids }) => input_ids.length)).toEqual(expect.arrayContaining([1, 2, 3, 4]));
  const types = cases.map(({ config }) => (config as { model_type: string }).model_type);
  expect(new Set(types)).toEqual(new Set(['idefics3', 'smolvlm']));
});

function expectStats(features: Tensor, wanted: Stats): void {
  const flat = features.toNumbers();
  expect(features.shape).toEqual(wanted.shape);
  expect(relativeError(flat.slice(0, wanted.first.length), wanted.first)).toBeLessThan(tolerance(1e-4));
  const sums = {
    sum: flat.reduce((a, b) => a + b, 0),
    abs_sum: flat.reduce((a, b) => a + Math.abs(b), 0),
    weighted: flat.reduce((a, b, i) => a + (b * ((i % 97) + 1)) / 97, 0),
  };
  for (const key of ['sum', 'abs_sum', 'weighted'] as const)
    expect(Math.abs(sums[key] - wanted[key]) / wanted.abs_sum).toBeLessThan(tolerance(1e-5));
}

describe.each(cases.map((golden) => [golden.name, golden] as const))('%s', (_, golden) => {
  const { ids, input_ids, attention_mask } = golden;

  test('weights are drawn alike', () => {
    using model = seededSmolVlm(golden);
    const parameters = model.namedParameters();
    expect(parameters.size).toBe(golden.weights.count);
    for (const [name, first] of Object.entries(golden.weights.first))
      scope(() =>
        expect(
          relativeError(parameters.get(name)!.flatten().narrow(0, 0, first.length).toNumbers(), first),
        ).toBeLessThan(tolerance(1e-6)),
      );
  });

  test('features of each picture', () => {
    using model = seededSmolVlm(golden);
    scope(() => {
      const features = model.encodeImages(seededSmolVlmImages(golden));
      expect(features.length).toBe(golden.features.length);
      features.forEach((own, i) => {
        expectStats(own, golden.features[i]!);
      });
    });
  });

  test('forward: logits and attention row', () => {
    using model = seededSmolVlm(golden);
    scope(() => {
      const batch = makeBatch(input_ids, attention_mask, seededSmolVlmImages(golden), ids);
      const prompt = embedPrompt(model, batch, 'sequential');
      const { hidden, scores } = new Sequence(model, prompt, null).run('detached');
      const logits = model.logits(hidden);
      expect(relativeError(logits.select(1, -1).toNumbers(), golden.last_logits.flat())).toBeLessThan(tolerance(1e-4));
      for (const { row, column, logits: probe } of golden.probes) {
        const got = logits.select(0, row).select(0, column).toNumbers().slice(0, probe.length);
        expect(relativeError(got, probe)).toBeLessThan(tolerance(1e-4));
      }
      expect(relativeError(scores!.toNumbers(), golden.attention_row.flat())).toBeLessThan(tolerance(1e-4));
    });
  });

  test('greedy tokens over the cache, and each row as if it were alone', () => {
    using model = seededSmolVlm(golden);
    scope(() => {
      const batch = makeBatch(input_ids, attention_mask, seededSmolVlmImages(golden), ids);
      const options = { ...LATENT_DEFAULTS, maxNewTokens: 12, eosIds: [], trace: true, firstLogits: true };
      const together = generateAll(model, batch, options);
      expect(together.tokens).toEqual(golden.greedy);
      if (input_ids.length === 1) return;
      for (const [b, row] of input_ids.entries()) {
        const own = row.filter((_, s) => attention_mask[b]![s] === 1);
        const pictures = batch.images[b]!;
        const alone = generateAll(model, makeBatch([own], [own.map(() => 1)], pictures, ids), options);
        expect(alone.tokens[0]).toEqual(golden.greedy[b]);
        expect(relativeError(together.firstLogits[b]!, alone.firstLogits[0]!)).toBeLessThan(tolerance(1e-5));
      }
    });
  });
});

test('latent steps in a padded batch of four, tiles of different number: each row picks and writes as if it were alone', () => {
  const golden = cases.find(({ name }) => name.startsWith('four rows'))!;
  using model = seededSmolVlm(golden);
  scope(() => {
    const { ids, input_ids, attention_mask } = golden;
    const slots = [ids.latent, ids.latent, ids.latent];
    const rows = input_ids.map((row) => [...row, ...slots]);
    const mask = attention_mask.map((row) => [...row, ...slots.map(() => 1)]);
    const images = seededSmolVlmImages(golden);
    const options = { ...LATENT_DEFAULTS, patches: 3, maxNewTokens: 6, eosIds: [], trace: true, firstLogits: true };
    const fewer = { ...options, onExhausted: 'fewer' as const };
    const batch = makeBatch(rows, mask, images, ids);
    const together = generateAll(model, batch, fewer);
    for (const [b, row] of rows.entries()) {
      const own = row.filter((_, s) => mask[b]![s] === 1);
      const pictures = batch.images[b]!;
      const alone = generateAll(model, makeBatch([own], [own.map(() => 1)], pictures, ids), fewer);
      expect(together.picked[b]).toEqual(alone.picked[0]);
      expect(together.tokens[b]).toEqual(alone.tokens[0]);
      expect(relativeError(together.firstLogits[b]!, alone.firstLogits[0]!)).toBeLessThan(tolerance(1e-5));
    }
  });
});

test('M-RoPE positions are refused', () => {
  using model = seededSmolVlm(cases[0]!);
  expect(() => model.promptPositions([[100]], [[1]], [[]], 'mrope')).toThrow(UserError);
});
