/** Latent reasoning and its training loss against the official IVT-LR code. */
import { AdamW, liveTensorCount, scope } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS, type LatentOptions } from '../../packages/ivtlr/src/latent/options.ts';
import type { Qwen2VL } from '../../packages/ivtlr/src/models/qwen2-vl/model.ts';
import { trainingLoss } from '../../packages/ivtlr/src/train/loss.ts';
import { type GoldenCase, makeBatch, readGolden, relativeError, seededImages, seededModel } from './model.ts';

interface GenerateCase extends GoldenCase {
  latents: number;
  patches: number;
  input_ids: number[];
  picked: number[][];
  new_tokens: number[];
  last_logits: number[];
}

interface TrainCase extends GoldenCase {
  patches: number;
  input_ids: number[][];
  labels: number[][];
  attention_mask: number[][];
  steps: number;
  losses: number[];
  picked: number[][][];
  gradient_norms: Record<string, number>;
  moved_norms: Record<string, number>;
}

const generateGolden = readGolden<{ max_new_tokens: number; cases: GenerateCase[]; exhausted: GenerateCase[] }>(
  'official-generate.json',
);
const trainGolden = readGolden<{ trained: string[]; cases: TrainCase[] }>('official-train.json');

const official = (patches: number): LatentOptions => ({ ...LATENT_DEFAULTS, patches, onExhausted: 'reuse' });

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

test('there are enough cases', () => {
  expect(generateGolden.cases.length).toBeGreaterThanOrEqual(24);
  expect(trainGolden.cases.length).toBeGreaterThanOrEqual(8);
  expect(generateGolden.exhausted.length).toBe(4);
  for (const { latents, patches, input_ids, ids } of generateGolden.exhausted)
    expect(latents * patches).toBeGreaterThan(input_ids.filter((id) => id === ids.image).length);
});

const generateCases = [
  ...generateGolden.cases.map((golden) => [golden.name, golden] as const),
  ...generateGolden.exhausted.map((golden) => [`exhausted: ${golden.name}`, golden] as const),
];

describe.each(generateCases)('generate: %s', (_, golden) => {
  test('same picks in the same order, same logits, same tokens', () => {
    using model = seededModel(golden);
    scope(() => {
      const batch = makeBatch([golden.input_ids], [golden.input_ids.map(() => 1)], seededImages(golden), golden.ids);
      const options = {
        ...official(golden.patches),
        maxNewTokens: generateGolden.max_new_tokens,
        eosIds: [golden.ids.eos],
      };
      const result = generateAll(model, batch, options);
      const start = batch.imageStart[0]!;
      expect(result.traces[0]!.map(({ picked }) => picked.map((index) => index + start))).toEqual(golden.picked);
      expect(relativeError(result.firstLogits[0]!, golden.last_logits)).toBeLessThan(1e-4);
      expect(result.tokens[0]).toEqual(golden.new_tokens);
    });
  });
});

/** Trains exactly what the golden trains, and returns the optimiser. */
function prepare(model: Qwen2VL): AdamW {
  const trained = new Map(
    [...model.namedParameters()].filter(([name]) => trainGolden.trained.some((part) => name.includes(part))),
  );
  model.setRequiresGrad(false);
  for (const parameter of trained.values()) parameter.requiresGrad = true;
  return new AdamW(trained, { lr: 4e-5, weightDecay: 0.01 });
}

describe.each(trainGolden.cases.map((golden) => [golden.name, golden] as const))('train: %s', (_, golden) => {
  test('same losses, picks, gradients and steps', () => {
    using model = seededModel(golden);
    using optimizer = prepare(model);
    const trained = new Map([...model.namedParameters()].filter(([, parameter]) => parameter.requiresGrad));
    scope(() => {
      const start = new Map([...trained].map(([name, parameter]) => [name, parameter.detach().clone()]));
      const images = seededImages(golden);
      const losses: number[] = [];
      for (let step = 0; step < golden.steps; step++) {
        scope(() => {
          const batch = makeBatch(golden.input_ids, golden.attention_mask, images, golden.ids, golden.labels);
          const result = trainingLoss(model, batch, {
            ...official(golden.patches),
            latentGradient: 'detached',
            pickSupervision: 0,
          });
          result.loss.backward();
          losses.push(result.loss.item());
          if (step === 0) {
            const absolute = result.picked.map((rows) =>
              rows.map((row, b) => row.map((index) => index + batch.imageStart[b]!)),
            );
            expect(absolute).toEqual(golden.picked);
            for (const [name, wanted] of Object.entries(golden.gradient_norms)) {
              const norm = trained.get(name)!.grad!.pow(2).sum().sqrt().item();
              expect(Math.abs(norm - wanted), name).toBeLessThan(1e-4 * Math.max(wanted, 0.01));
            }
          }
          optimizer.step();
          optimizer.zeroGrad();
        });
      }
      expect(relativeError(losses, golden.losses)).toBeLessThan(1e-4);
      for (const [name, wanted] of Object.entries(golden.moved_norms)) {
        const moved = trained.get(name)!.detach().sub(start.get(name)!).pow(2).sum().sqrt().item();
        expect(Math.abs(moved - wanted) / wanted, name).toBeLessThan(1e-2);
      }
    });
  });
});
