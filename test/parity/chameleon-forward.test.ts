/** Chameleon against Hugging Face transformers: image tokens, logits, attention row, greedy tokens, alone and in padded batches. */
import { liveTensorCount, manualSeed, randn, scope, setNumThreads } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { UserError } from '../../packages/ivtlr/src/errors.ts';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { embedPrompt, Sequence } from '../../packages/ivtlr/src/latent/sequence.ts';
import { tolerance } from '../device.ts';
import { type ChameleonCase, seededChameleon, seededChameleonImages } from './chameleon-model.ts';
import { makeBatch, readGolden, relativeError } from './model.ts';

interface ForwardCase extends ChameleonCase {
  input_ids: number[][];
  attention_mask: number[][];
  /** Vocabulary ids of the image codes. */
  masked: number[];
  codes: number[][];
  last_logits: number[][];
  probes: { row: number; column: number; logits: number[] }[];
  attention_row: number[][];
  greedy: number[][];
}

interface TokensGolden extends Pick<ChameleonCase, 'config' | 'weights'> {
  cases: { seed: number; codes: number[] }[];
}

const { cases } = readGolden<{ cases: ForwardCase[] }>('chameleon-forward.json');
const tokens = readGolden<TokensGolden>('chameleon-tokens.json');
const LOWEST = -3.4028234663852886e38;

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
  setNumThreads(2);
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

test('there are enough cases', () => {
  expect(cases.length).toBe(11);
  expect(cases.map(({ input_ids }) => input_ids.length)).toEqual(expect.arrayContaining([1, 2, 3, 4]));
  expect(tokens.cases.length).toBe(20);
});

describe.each(tokens.cases.map((golden) => [golden.seed, golden] as const))('image %i', (seed, { codes }) => {
  test('1024 image tokens as transformers', () => {
    using model = seededChameleon({ name: 'tokens', config: tokens.config, seed });
    scope(() => {
      const [picture] = seededChameleonImages({ config: tokens.config, seed, pictures: 1 });
      const ids = model.imageTokens(picture!).toNumbers();
      expect(ids).toEqual(codes.map((code) => model.config.codeIds[code]));
    });
  });
});

describe.each(cases.map((golden) => [golden.name, golden] as const))('%s', (_, golden) => {
  const { ids, input_ids, attention_mask } = golden;
  const without = (logits: number[]) => logits.filter((_, id) => !golden.masked.includes(id));

  test('weights are drawn alike', () => {
    using model = seededChameleon(golden);
    const parameters = model.namedParameters();
    expect(parameters.size).toBe(golden.weights.count);
    for (const [name, first] of Object.entries(golden.weights.first))
      scope(() =>
        expect(
          relativeError(parameters.get(name)!.flatten().narrow(0, 0, first.length).toNumbers(), first),
        ).toBeLessThan(tolerance(1e-6)),
      );
  });

  test('image codes', () => {
    using model = seededChameleon(golden);
    scope(() => {
      const got = seededChameleonImages(golden).map((picture) => model.imageTokens(picture).toNumbers());
      expect(got).toEqual(golden.codes.map((codes) => codes.map((code) => model.config.codeIds[code])));
    });
  });

  test('forward: logits and attention row', () => {
    using model = seededChameleon(golden);
    scope(() => {
      const batch = makeBatch(input_ids, attention_mask, seededChameleonImages(golden), ids);
      const prompt = embedPrompt(model, batch, 'sequential');
      const { hidden, scores } = new Sequence(model, prompt, null).run('detached');
      const logits = model.logits(hidden);
      const last = logits.select(1, -1).tolist() as number[][];
      for (const [b, row] of last.entries()) {
        expect(relativeError(without(row), golden.last_logits[b]!)).toBeLessThan(tolerance(1e-4));
        expect(golden.masked.every((id) => row[id] === LOWEST)).toBe(true);
      }
      for (const { row, column, logits: probe } of golden.probes) {
        const got = without(logits.select(0, row).select(0, column).toNumbers()).slice(0, probe.length);
        expect(relativeError(got, probe)).toBeLessThan(tolerance(1e-4));
      }
      expect(relativeError(scores!.toNumbers(), golden.attention_row.flat())).toBeLessThan(tolerance(1e-4));
    });
  });

  test('greedy tokens, and each row as if it were alone', () => {
    using model = seededChameleon(golden);
    scope(() => {
      const pictures = seededChameleonImages(golden);
      const batch = makeBatch(input_ids, attention_mask, pictures, ids);
      const options = { ...LATENT_DEFAULTS, maxNewTokens: 12, eosIds: [], trace: true, firstLogits: true };
      const together = generateAll(model, batch, options);
      expect(together.tokens).toEqual(golden.greedy);
      if (input_ids.length === 1) return;
      for (const [b, row] of input_ids.entries()) {
        const own = row.filter((_, s) => attention_mask[b]![s] === 1);
        const pictures = batch.images[b]!;
        const alone = generateAll(model, makeBatch([own], [own.map(() => 1)], [...pictures], ids), options);
        expect(alone.tokens[0]).toEqual(golden.greedy[b]);
        expect(relativeError(without(together.firstLogits[b]!), without(alone.firstLogits[0]!))).toBeLessThan(
          tolerance(1e-5),
        );
      }
    });
  });
});

describe('latent steps in a padded batch of four', () => {
  test('each row picks, writes and scores as if it were alone', () => {
    const golden = cases.find(({ name }) => name.startsWith('four rows'))!;
    using model = seededChameleon(golden);
    scope(() => {
      const { ids } = golden;
      const pictures = seededChameleonImages({ ...golden, pictures: 4 });
      const places = pictures[0]!.tokens;
      const rows = [3, 9, 1, 6].map((before, b) => [
        ...Array.from({ length: before }, (_, i) => 100 + 7 * b + i),
        ...new Array<number>(places).fill(ids.image),
        ...Array.from({ length: 12 - b }, (_, i) => 180 + 5 * b + i),
        ids.latent,
        ids.latent,
      ]);
      const width = Math.max(...rows.map((row) => row.length));
      const padded = rows.map((row) => [...new Array<number>(width - row.length).fill(0), ...row]);
      const mask = rows.map((row) => [...new Array<number>(width - row.length).fill(0), ...row.map(() => 1)]);
      const options = { ...LATENT_DEFAULTS, patches: 9, maxNewTokens: 6, eosIds: [], trace: true, firstLogits: true };
      const together = generateAll(model, makeBatch(padded, mask, pictures, ids), options);
      for (const [b, row] of rows.entries()) {
        const alone = generateAll(model, makeBatch([row], [row.map(() => 1)], [pictures[b]!], ids), options);
        expect(together.traces[b]!.map(({ picked }) => picked)).toEqual(alone.traces[0]!.map(({ picked }) => picked));
        expect(together.tokens[b]).toEqual(alone.tokens[0]);
        expect(relativeError(without(together.firstLogits[b]!), without(alone.firstLogits[0]!))).toBeLessThan(
          tolerance(1e-5),
        );
      }
      function without(logits: number[]): number[] {
        return logits.filter((_, id) => !golden.masked.includes(id));
      }
    });
  });
});

describe('what does not fit is said', () => {
  test('M-RoPE positions, and an image of another size than its preprocessing counted', () => {
    using model = seededChameleon(cases[0]!);
    expect(() => model.promptPositions([[100]], [[1]], [[]], 'mrope')).toThrow(UserError);
    scope(() => {
      manualSeed(1);
      const pixels = randn([1, 3, 32, 32]);
      const picture = { pixels, grid: [1, 4, 4], tokens: 16, tokenGrid: [4, 4], source: { width: 64, height: 64 } };
      expect(() => model.encodeImages([picture as never])).toThrow(/32x32 gives 4 image tokens.*counted 16/);
    });
  });
});
