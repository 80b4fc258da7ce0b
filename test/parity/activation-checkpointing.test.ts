/** Activation checkpointing gives the gradients of a plain backward pass, on the models and batches of official-train.json, qwen3-train.json and chameleon-train.json. */
import { liveTensorCount, manualSeed, noGrad, randn, scope } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { injectLora, loraParameters } from '../../packages/ivtlr/src/lora/inject.ts';
import { DECODER_PROJECTIONS } from '../../packages/ivtlr/src/lora/options.ts';
import type { VisionLanguageModel } from '../../packages/ivtlr/src/models/types.ts';
import { type LossOptions, trainingLoss } from '../../packages/ivtlr/src/train/loss.ts';
import { tolerance } from '../device.ts';
import { type ChameleonCase, seededChameleon, seededChameleonImages } from './chameleon-model.ts';
import { type GoldenCase, makeBatch, readGolden, relativeError, seededImages, seededModel } from './model.ts';

interface TrainCase extends GoldenCase, Pick<ChameleonCase, 'pictures'> {
  patches: number;
  latents: number;
  input_ids: number[][];
  labels: number[][];
  attention_mask: number[][];
}

const { cases } = readGolden<{ cases: TrainCase[] }>('official-train.json');
const QWEN = { model: seededModel, images: seededImages };
const CHAMELEON = { model: seededChameleon, images: seededChameleonImages };
type Family = typeof QWEN | typeof CHAMELEON;
const all = [
  ...cases.slice(0, 11).map((golden) => [golden.name, golden, QWEN] as const),
  ...readGolden<{ cases: TrainCase[] }>('qwen3-train.json').cases.map(
    (golden) => [`qwen3-vl ${golden.name}`, golden, QWEN] as const,
  ),
  ...readGolden<{ cases: TrainCase[] }>('chameleon-train.json').cases.map(
    (golden) => [`chameleon ${golden.name}`, golden, CHAMELEON] as const,
  ),
];

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

/** Loss and all gradients, from the same random state. */
function gradients(model: VisionLanguageModel, family: Family, golden: TrainCase, more: Partial<LossOptions>) {
  return scope(() => {
    const images = family.images(golden);
    const batch = makeBatch(golden.input_ids, golden.attention_mask, images, golden.ids, golden.labels);
    const options: LossOptions = {
      ...LATENT_DEFAULTS,
      patches: golden.patches,
      onExhausted: 'reuse',
      latentGradient: 'detached',
      pickSupervision: 0,
      ...more,
    };
    manualSeed(11);
    const result = trainingLoss(model, batch, options);
    const loss = result.loss.item();
    result.backward(0.5);
    const after = randn([3]).toNumbers();
    const found = new Map<string, number[]>();
    for (const [name, parameter] of model.module.namedParameters()) {
      if (parameter.grad) found.set(name, parameter.grad.toNumbers());
      parameter.grad = null;
    }
    return { loss, found, after };
  });
}

function expectSame(model: VisionLanguageModel, family: Family, golden: TrainCase): Map<string, number[]> {
  const plain = gradients(model, family, golden, {});
  const checkpointed = gradients(model, family, golden, { activationCheckpointing: true });
  expect(Math.abs(checkpointed.loss / plain.loss - 1)).toBeLessThan(tolerance(1e-6));
  expect([...checkpointed.found.keys()]).toEqual([...plain.found.keys()]);
  for (const [name, values] of plain.found)
    expect(relativeError(checkpointed.found.get(name)!, values), name).toBeLessThan(
      tolerance(golden.latents === 0 ? 1e-5 : 1e-4),
    );
  // What is drawn afterwards does not depend on the layers having run twice.
  if (golden.latents === 0) expect(checkpointed.after).toEqual(plain.after);
  return plain.found;
}

function withoutLatentSteps(golden: TrainCase): TrainCase {
  const kept = (rows: number[][]) =>
    rows.map((row, b) => row.filter((_, s) => golden.input_ids[b]![s] !== golden.ids.latent));
  const { input_ids, labels, attention_mask } = golden;
  return {
    ...golden,
    latents: 0,
    input_ids: kept(input_ids),
    labels: kept(labels),
    attention_mask: kept(attention_mask),
  };
}

describe.each(all)('%s', (_, golden, family) => {
  test('all weights, vision tower and embeddings included', () => {
    using model = family.model(golden);
    const found = expectSame(model, family, golden);
    expect([...found.keys()].some((name) => name.startsWith('visual.'))).toBe(family === QWEN);
    // Chameleon's image tokenizer is never trained.
    expect([...found.keys()].some((name) => name.includes('vqmodel'))).toBe(false);
    expect(found.has('model.embed_tokens.weight')).toBe(true);
  });

  // Latent steps draw other masks in a pass of their own, so dropout is compared without them.
  test.each([0, 0.3])('LoRA with dropout %d', (dropout) => {
    using model = family.model(golden);
    manualSeed(4);
    injectLora(model, { rank: 3, alpha: 6, dropout, targets: DECODER_PROJECTIONS });
    noGrad(() => scope(() => loraParameters(model).forEach((p) => void p.copy_(randn(p.shape).mul(0.3)))));
    model.train();
    const found = expectSame(model, family, dropout > 0 ? withoutLatentSteps(golden) : golden);
    expect([...found.keys()]).toEqual([...loraParameters(model).keys()]);
  });
});

describe.each(all)('cut into segments: %s', (_, golden, family) => {
  test.each(['detached', 'through'] as const)('%s', (latentGradient) => {
    using model = family.model(golden);
    const seen: string[] = [];
    const complete: string[] = [];
    const observer = {
      require: (parts: readonly string[]) => void seen.push(...parts),
      gradientsComplete: (part: string) => void complete.push(part),
    };
    const whole = gradients(model, family, golden, { latentGradient });
    const cut = gradients(model, family, golden, { latentGradient, observer });
    expect(Math.abs(cut.loss / whole.loss - 1)).toBeLessThan(tolerance(1e-6));
    expect([...cut.found.keys()]).toEqual([...whole.found.keys()]);
    for (const [name, values] of whole.found)
      expect(relativeError(cut.found.get(name)!, values), name).toBeLessThan(tolerance(1e-5));
    const layers = model.parts().layers.map((_, i) => `layers.${i}`);
    expect(complete).toEqual(
      ['head', ...layers.reverse(), 'embedding', 'vision'].filter((part) => seen.includes(part)),
    );
  });
});

test('a loss with checkpoints cannot be differentiated halfway, nor through the latent steps', () => {
  const golden = cases.find(({ latents }) => latents > 0)!;
  using model = seededModel(golden);
  scope(() => {
    const batch = makeBatch(golden.input_ids, golden.attention_mask, seededImages(golden), golden.ids, golden.labels);
    const options: LossOptions = {
      ...LATENT_DEFAULTS,
      patches: 1,
      latentGradient: 'detached',
      pickSupervision: 0,
      activationCheckpointing: true,
    };
    expect(trainingLoss(model, batch, options).loss.requiresGrad).toBe(false);
    expect(() => trainingLoss(model, batch, { ...options, latentGradient: 'through' })).toThrow(
      /needs detached latent steps/,
    );
  });
});
