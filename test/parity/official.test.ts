/** Latent reasoning and its training loss against the official IVT-LR code, or against the rendering that it vouches for. */
import { AdamW, liveTensorCount, type Module, scope } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { imageColumns } from '../../packages/ivtlr/src/latent/image-columns.ts';
import { LATENT_DEFAULTS, type LatentOptions } from '../../packages/ivtlr/src/latent/options.ts';
import type { PositionKind, ProcessedImage, VisionLanguageModel } from '../../packages/ivtlr/src/models/types.ts';
import { trainingLoss } from '../../packages/ivtlr/src/train/loss.ts';
import { tolerance } from '../device.ts';
import { seededChameleon, seededChameleonImages } from './chameleon-model.ts';
import { type GoldenCase, makeBatch, readGolden, relativeError, seededImages, seededModel } from './model.ts';
import { seededSmolVlm, seededSmolVlmImages } from './smolvlm-model.ts';

/** A case of any family; what it says of images is the family's own. */
// biome-ignore lint/suspicious/noExplicitAny: each family reads its own cases only.
type AnyCase = Omit<GoldenCase, 'image_grid_thw'> & { image_grid_thw: any; pictures: any; tile: number } & {
  /** Without it: sequential, as the official code has it. */
  positions?: PositionKind;
  /** In the cases of latent steps that remember one step: whether written text sees the picture no more. */
  family?: string;
  hide_from_text?: boolean;
};

interface GenerateCase extends AnyCase {
  latents: number;
  patches: number;
  input_ids: number[];
  /** The only picture that steps pick from, from 0; picks then stand in the order of their scores. */
  pick_from?: number;
  picked: number[][];
  new_tokens: number[];
  /** Of the vocabulary without `masked`. */
  last_logits: number[];
  /** Chameleon: ids that are never written. */
  masked?: number[];
}

interface TrainCase extends AnyCase {
  patches: number;
  /** Gradients flow through the latent steps, which the official code does not do. */
  through?: boolean;
  input_ids: number[][];
  labels: number[][];
  attention_mask: number[][];
  steps: number;
  losses: number[];
  picked: number[][][];
  gradient_norms: Record<string, number>;
  moved_norms: Record<string, number>;
}

interface GenerateGolden {
  max_new_tokens: number;
  cases: GenerateCase[];
  exhausted?: GenerateCase[];
}

interface TrainGolden {
  trained: string[];
  cases: TrainCase[];
}

interface FamilyCases {
  generate: GenerateGolden;
  train: TrainGolden;
  model(golden: AnyCase): VisionLanguageModel & Module;
  images(golden: AnyCase): ProcessedImage[];
  /** Beside the official ones. */
  options?: Partial<LatentOptions>;
}

const memory = {
  generate: readGolden<GenerateGolden>('latent-memory-generate.json'),
  train: readGolden<TrainGolden>('latent-memory-train.json'),
};

/** A family's cases of latent steps that remember one step. */
function oneStep(family: string): Pick<FamilyCases, 'generate' | 'train' | 'options'> {
  const own = <T extends AnyCase>({ cases }: { cases: T[] }) => cases.filter((golden) => golden.family === family);
  return {
    generate: { ...memory.generate, cases: own(memory.generate) },
    train: {
      // SmolVLM's cases train norms, too.
      trained: family === 'smolvlm' ? readGolden<TrainGolden>('smolvlm-train.json').trained : memory.train.trained,
      cases: own(memory.train),
    },
    options: { latentMemory: 'last' },
  };
}

const FAMILIES = {
  'qwen2-vl': {
    generate: readGolden<GenerateGolden>('official-generate.json'),
    train: readGolden<TrainGolden>('official-train.json'),
    model: seededModel,
    images: seededImages,
  },
  'qwen2.5-vl': {
    generate: readGolden<GenerateGolden>('qwen25-generate.json'),
    train: readGolden<TrainGolden>('qwen25-train.json'),
    model: seededModel,
    images: seededImages,
  },
  'qwen3-vl': {
    generate: readGolden<GenerateGolden>('qwen3-generate.json'),
    train: readGolden<TrainGolden>('qwen3-train.json'),
    model: seededModel,
    images: seededImages,
  },
  'qwen3-vl, patches without DeepStack features': {
    generate: readGolden<GenerateGolden>('qwen3-generate-plain.json'),
    train: readGolden<TrainGolden>('qwen3-train-plain.json'),
    model: seededModel,
    images: seededImages,
    options: { latentDeepstack: 'off' as const },
  },
  'several pictures or none': {
    generate: readGolden<GenerateGolden>('qwen-pictures-generate.json'),
    train: readGolden<TrainGolden>('qwen-pictures-train.json'),
    model: seededModel,
    images: seededImages,
    options: { onExhausted: 'fewer' as const },
  },
  chameleon: {
    generate: readGolden<GenerateGolden>('chameleon-generate.json'),
    train: readGolden<TrainGolden>('chameleon-train.json'),
    model: seededChameleon,
    images: seededChameleonImages,
  },
  smolvlm: {
    generate: readGolden<GenerateGolden>('smolvlm-generate.json'),
    train: readGolden<TrainGolden>('smolvlm-train.json'),
    model: seededSmolVlm,
    images: seededSmolVlmImages,
  },
  'qwen2-vl, memory of one step': { ...oneStep('qwen2-vl'), model: seededModel, images: seededImages },
  'qwen2.5-vl, memory of one step': { ...oneStep('qwen2.5-vl'), model: seededModel, images: seededImages },
  'qwen3-vl, memory of one step': { ...oneStep('qwen3-vl'), model: seededModel, images: seededImages },
  'chameleon, memory of one step': {
    ...oneStep('chameleon'),
    model: seededChameleon,
    images: seededChameleonImages,
  },
  'smolvlm, memory of one step': { ...oneStep('smolvlm'), model: seededSmolVlm, images: seededSmolVlmImages },
};

const official = ({
  patches,
  positions = 'sequential',
  hide_from_text = false,
}: {
  patches: number;
  positions?: PositionKind;
  hide_from_text?: boolean;
}): LatentOptions => ({
  ...LATENT_DEFAULTS,
  patches,
  positions,
  onExhausted: 'reuse',
  hideImageFromText: hide_from_text,
});

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

test('there are enough cases', () => {
  const { 'qwen2-vl': qwen, chameleon, ...rendered } = FAMILIES;
  for (const { generate, train, options } of Object.values<FamilyCases>(rendered)) {
    if (options) continue; // not a family's own cases
    expect(generate.cases.length).toBeGreaterThanOrEqual(16);
    expect(new Set(generate.cases.map(({ latents }) => latents))).toEqual(new Set([0, 1, 2, 3, 4]));
    expect(train.cases.every(({ steps }) => steps === 10)).toBe(true);
    expect(train.cases.length).toBeGreaterThanOrEqual(4);
  }
  expect(qwen.generate.cases.length).toBeGreaterThanOrEqual(24);
  expect(qwen.train.cases.length).toBeGreaterThanOrEqual(8);
  expect(qwen.generate.exhausted!.length).toBe(4);
  for (const { latents, patches, input_ids, ids } of qwen.generate.exhausted!)
    expect(latents * patches).toBeGreaterThan(input_ids.filter((id) => id === ids.image).length);
  expect(chameleon.generate.cases.length).toBeGreaterThanOrEqual(16);
  expect(new Set(chameleon.generate.cases.map(({ latents }) => latents))).toEqual(new Set([0, 1, 2, 3, 4]));
  expect(chameleon.train.cases.length).toBeGreaterThanOrEqual(4);
  for (const family of ['qwen2-vl', 'qwen2.5-vl', 'qwen3-vl', 'chameleon', 'smolvlm']) {
    expect(oneStep(family).generate.cases.length).toBe(2);
    expect(oneStep(family).train.cases.length).toBeGreaterThanOrEqual(1);
  }
});

const generateCases = Object.entries<FamilyCases>(FAMILIES).flatMap(([family, { generate, ...made }]) =>
  [...generate.cases, ...(generate.exhausted ?? [])].map((golden, i) => {
    const name = `${family}: ${i < generate.cases.length ? '' : 'exhausted: '}${golden.name}`;
    return [name, golden, generate.max_new_tokens, made] as const;
  }),
);

describe.each(generateCases)('generate: %s', (_, golden, maxNewTokens, family) => {
  test('same picks in the same order, same logits, same tokens', () => {
    using model = family.model(golden);
    scope(() => {
      const images = family.images(golden);
      const batch = makeBatch([golden.input_ids], [golden.input_ids.map(() => 1)], images, golden.ids);
      const options = {
        ...official(golden),
        ...family.options,
        ...(golden.pick_from !== undefined && { pickFrom: golden.pick_from, pickOrder: 'score' as const }),
        maxNewTokens,
        eosIds: [golden.ids.eos],
        trace: true,
        firstLogits: true,
      };
      const result = generateAll(model, batch, options);
      const columns = imageColumns(golden.input_ids, golden.ids.image);
      expect(result.traces[0]!.map(({ picked }) => picked.map((index) => columns[index]))).toEqual(golden.picked);
      const logits = result.firstLogits[0]!.filter((_, id) => !golden.masked?.includes(id));
      expect(relativeError(logits, golden.last_logits)).toBeLessThan(tolerance(1e-4));
      expect(result.tokens[0]).toEqual(golden.new_tokens);
    });
  });
});

/** Trains exactly what the golden trains, and returns the optimiser. */
function prepare({ module }: VisionLanguageModel, parts: readonly string[]): AdamW {
  // The decoder's alone: Qwen2.5-VL's vision tower has projections of the same names.
  const named = [...module.namedParameters()].filter(([name]) => /^model\.(text_model\.)?layers\./.test(name));
  const trained = new Map(named.filter(([name]) => parts.some((part) => name.includes(part))));
  module.setRequiresGrad(false);
  for (const parameter of trained.values()) parameter.requiresGrad = true;
  return new AdamW(trained, { lr: 4e-5, weightDecay: 0.01 });
}

const trainCases = Object.entries<FamilyCases>(FAMILIES).flatMap(([family, { train, ...made }]) =>
  train.cases.map((golden) => [`${family}: ${golden.name}`, golden, train.trained, made] as const),
);

describe.each(trainCases)('train: %s', (_, golden, parts, family) => {
  test('same losses, picks, gradients and steps', () => {
    using model = family.model(golden);
    using optimizer = prepare(model, parts);
    const trained = new Map([...model.namedParameters()].filter(([, parameter]) => parameter.requiresGrad));
    scope(() => {
      const start = new Map([...trained].map(([name, parameter]) => [name, parameter.detach().clone()]));
      const images = family.images(golden);
      const losses: number[] = [];
      for (let step = 0; step < golden.steps; step++) {
        scope(() => {
          const batch = makeBatch(golden.input_ids, golden.attention_mask, images, golden.ids, golden.labels);
          const result = trainingLoss(model, batch, {
            ...official(golden),
            ...family.options,
            latentGradient: golden.through ? 'through' : 'detached',
            pickSupervision: 0,
          });
          result.loss.backward();
          losses.push(result.loss.item());
          if (step === 0) {
            const absolute = result.picked.map((rows) =>
              rows.map((row, b) => row.map((index) => imageColumns(batch.inputIds[b]!, golden.ids.image)[index])),
            );
            expect(absolute).toEqual(golden.picked);
            for (const [name, wanted] of Object.entries(golden.gradient_norms)) {
              const norm = trained.get(name)!.grad!.pow(2).sum().sqrt().item();
              expect(Math.abs(norm - wanted), name).toBeLessThan(tolerance(1e-4) * Math.max(wanted, 0.01));
            }
          }
          optimizer.step();
          optimizer.zeroGrad();
        });
      }
      expect(relativeError(losses, golden.losses)).toBeLessThan(tolerance(1e-4));
      for (const [name, wanted] of Object.entries(golden.moved_norms)) {
        const moved = trained.get(name)!.detach().sub(start.get(name)!).pow(2).sum().sqrt().item();
        expect(Math.abs(moved - wanted) / wanted, name).toBeLessThan(tolerance(1e-2));
      }
    });
  });
});
