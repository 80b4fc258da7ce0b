/** Qwen2-VL, Qwen2.5-VL and Qwen3-VL against Hugging Face transformers: vision features, positions, logits, attention row, greedy tokens. */
import { liveTensorCount, scope, type Tensor, tensor } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { embedPrompt, Sequence } from '../../packages/ivtlr/src/latent/sequence.ts';
import { tolerance } from '../device.ts';
import {
  type GoldenCase,
  makeBatch,
  readGolden,
  relativeError,
  type Stats,
  seededImages,
  seededModel,
} from './model.ts';

interface Expected {
  position_ids: number[][][] | number[][];
  last_logits: number[][];
  probes: { row: number; column: number; logits: number[] }[];
  attention_row: number[][];
  greedy?: number[][];
}

interface ForwardCase extends GoldenCase {
  input_ids: number[][];
  attention_mask: number[][];
  vision?: Stats[];
  /** Qwen3-VL: per image, the features of each DeepStack level. */
  deepstack?: Stats[][];
  mrope: Expected;
  sequential: Expected;
}

const cases = ['qwen-forward.json', 'qwen25-forward.json', 'qwen3-forward.json'].flatMap((file) =>
  readGolden<{ cases: ForwardCase[] }>(file).cases.map((golden) => ({
    ...golden,
    name: `${file.replace('-forward.json', '')}: ${golden.name}`,
  })),
);

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

function stats(t: Tensor): Omit<Stats, 'first'> & { first: number[] } {
  const flat = t.toNumbers();
  return {
    shape: t.shape,
    first: flat.slice(0, 64),
    sum: flat.reduce((a, b) => a + b, 0),
    abs_sum: flat.reduce((a, b) => a + Math.abs(b), 0),
    weighted: flat.reduce((a, b, i) => a + (b * ((i % 97) + 1)) / 97, 0),
  };
}

/** Every image is a run of image tokens of its own. */
function severalInARow(golden: ForwardCase): boolean {
  return golden.input_ids.some((row) => row.filter((id, s) => id === golden.ids.image && row[s - 1] !== id).length > 1);
}

test('there are enough cases, also of several images in a row', () => {
  expect(cases.length).toBeGreaterThanOrEqual(29);
  expect(cases.filter(severalInARow).length).toBeGreaterThanOrEqual(5);
});

describe.each(cases.map((golden) => [golden.name, golden] as const))('%s', (_, golden) => {
  test('weights are drawn alike', () => {
    using model = seededModel(golden);
    const parameters = model.namedParameters();
    expect(parameters.size).toBe(golden.weights.count);
    for (const [name, first] of Object.entries(golden.weights.first))
      scope(() =>
        expect(
          relativeError(parameters.get(name)!.flatten().narrow(0, 0, first.length).toNumbers(), first),
        ).toBeLessThan(tolerance(1e-6)),
      );
  });

  if (golden.vision)
    test('vision features', () => {
      using model = seededModel(golden);
      scope(() => {
        const encoded = model.encodeImages(seededImages(golden));
        expect(encoded.length).toBe(golden.vision!.length);
        encoded.forEach((features, i) => {
          // Behind an embedding stand the features of the DeepStack levels.
          const levels = [golden.vision![i]!, ...(golden.deepstack?.[i] ?? [])];
          expect(features.shape[1]).toBe(model.inputSize);
          levels.forEach((wanted, level) => {
            const got = stats(features.narrow(1, level * model.hiddenSize, model.hiddenSize));
            expect(got.shape).toEqual(wanted.shape);
            expect(relativeError(got.first, wanted.first)).toBeLessThan(tolerance(1e-4));
            for (const key of ['sum', 'abs_sum', 'weighted'] as const)
              expect(Math.abs(got[key] - wanted[key]) / wanted.abs_sum).toBeLessThan(tolerance(1e-4));
          });
        });
      });
    });

  for (const kind of ['mrope', 'sequential'] as const) {
    test(`forward with ${kind} positions`, () => {
      using model = seededModel(golden);
      scope(() => {
        const batch = makeBatch(golden.input_ids, golden.attention_mask, seededImages(golden), golden.ids);
        const expected = golden[kind];
        const prompt = embedPrompt(model, batch, kind);
        const wanted = tensor(expected.position_ids as number[][]).to('int64');
        const mask = tensor(golden.attention_mask).to('int64');
        const got = kind === 'sequential' ? prompt.positions.select(0, 0) : prompt.positions;
        expect(got.mul(mask).toNumbers()).toEqual(wanted.mul(mask).toNumbers());
        const { hidden, scores } = new Sequence(model, prompt, null).run('detached');
        const logits = model.logits(hidden);
        const last = logits.select(1, -1);
        expect(relativeError(last.toNumbers(), expected.last_logits.flat())).toBeLessThan(tolerance(1e-4));
        for (const { row, column, logits: probe } of expected.probes)
          expect(
            relativeError(logits.select(0, row).select(0, column).narrow(0, 0, probe.length).toNumbers(), probe),
          ).toBeLessThan(tolerance(1e-4));
        expect(relativeError(scores!.toNumbers(), expected.attention_row.flat())).toBeLessThan(tolerance(1e-4));
      });
    });
  }

  test('greedy tokens', () => {
    using model = seededModel(golden);
    scope(() => {
      const batch = makeBatch(golden.input_ids, golden.attention_mask, seededImages(golden), golden.ids);
      const result = generateAll(model, batch, {
        ...LATENT_DEFAULTS,
        positions: 'mrope',
        maxNewTokens: 12,
        eosIds: [],
        trace: true,
        firstLogits: true,
      });
      expect(result.tokens).toEqual(golden.mrope.greedy);
    });
  });
});
