/** LoRA adapters against PEFT: one layer's arithmetic, a whole model's logits and training, adapter folders both ways. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  AdamW,
  type DType,
  Linear,
  liveTensorCount,
  manualSeed,
  noGrad,
  openSafetensors,
  saveSafetensors,
  scope,
  type Tensor,
  tensor,
} from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { embedPrompt, Sequence } from '../../packages/ivtlr/src/latent/sequence.ts';
import { loadAdapter, saveAdapter } from '../../packages/ivtlr/src/lora/adapter-folder.ts';
import {
  injectLora,
  loraParameters,
  mergeLora,
  removeLora,
  unmergeLora,
} from '../../packages/ivtlr/src/lora/inject.ts';
import { LoraLinear } from '../../packages/ivtlr/src/lora/linear.ts';
import type { Qwen2VL } from '../../packages/ivtlr/src/models/qwen2-vl/model.ts';
import { loadModel } from '../../packages/ivtlr/src/models/registry.ts';
import type { VisionLanguageModel } from '../../packages/ivtlr/src/models/types.ts';
import { trainingLoss } from '../../packages/ivtlr/src/train/loss.ts';
import { tolerance } from '../device.ts';
import { type GoldenCase, makeBatch, readGolden, relativeError, seededImages } from './model.ts';

interface LayerGolden {
  dtype: DType;
  y: number[][];
  x_grad: number[][];
  a_grad: number[][];
  b_grad: number[][];
  merged: number[][];
}

interface LoraCase extends GoldenCase {
  base: string;
  adapter: string;
  rank: number;
  alpha: number;
  input_ids: number[][];
  labels: number[][];
  float32: Record<'plain' | 'adapted' | 'merged', number[]>;
  bfloat16: Record<'plain' | 'adapted' | 'merged', number[]>;
  training: {
    lr: number;
    weight_decay: number;
    losses: number[];
    gradient_norms: Record<string, number>;
    moved_norms: Record<string, number>;
  };
  dropout: { seed: number; loss: number; gradient_norms: Record<string, number> };
}

const golden = readGolden<{
  targets: string[];
  layer_inputs: Record<'weight' | 'bias' | 'a' | 'b' | 'x' | 'y_grad', number[]>;
  layers: LayerGolden[];
  cases: LoraCase[];
}>('lora.json');
const theCase = golden.cases[0]!;
const folderOf = (name: string) => fileURLToPath(new URL(`goldens/${name}`, import.meta.url));
const adapterFolder = folderOf(theCase.adapter);

let temporary: string;
let baseline = 0;
beforeAll(() => {
  temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-lora-'));
});
afterAll(() => fs.rmSync(temporary, { recursive: true, force: true }));
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

const openBase = (dtype: DType = 'float32') => loadModel(folderOf(theCase.base), { dtype }) as Qwen2VL;
const batchOf = (labels = theCase.labels) =>
  makeBatch(
    theCase.input_ids,
    theCase.input_ids.map((row) => row.map(() => 1)),
    seededImages(theCase),
    theCase.ids,
    labels,
  );

function lastLogits(model: VisionLanguageModel): number[] {
  return noGrad(() =>
    scope(() => {
      const whole = { ...batchOf(), latentStart: theCase.input_ids[0]!.length };
      const { hidden } = new Sequence(model, embedPrompt(model, whole, 'mrope'), null).run();
      return model.logits(hidden.select(1, -1)).to('float32').toNumbers();
    }),
  );
}

const lossOf = (model: VisionLanguageModel, batch = batchOf()) =>
  trainingLoss(model, batch, {
    ...LATENT_DEFAULTS,
    positions: 'mrope',
    latentGradient: 'detached',
    pickSupervision: 0,
  });

function expectNorms(
  parameters: ReadonlyMap<string, Tensor>,
  wanted: Record<string, number>,
  of: (p: Tensor, name: string) => Tensor,
  bound: number,
): void {
  expect([...parameters.keys()].sort()).toEqual(Object.keys(wanted));
  const largest = Math.max(...Object.values(wanted));
  for (const [name, norm] of Object.entries(wanted)) {
    const got = scope(() => of(parameters.get(name)!, name).pow(2).sum().sqrt().item());
    expect(Math.abs(got - norm), name).toBeLessThan(bound * Math.max(norm, largest / 100));
  }
}

describe.each(golden.layers.map((layer) => [layer.dtype, layer] as const))(
  'one layer on a %s base',
  (dtype, wanted) => {
    // In 16 bits both sides round the same sums, so all but a few last bits agree.
    const bound = tolerance(dtype === 'float32' ? 1e-6 : 1e-2);
    test('output, gradients and merged weight', () => {
      const layerInputs = golden.layer_inputs;
      using layer = new LoraLinear(new Linear(24, 16, { dtype }), { rank: 4, scaling: 10 / 4, dropout: 0 });
      scope(() => {
        noGrad(() => {
          for (const [p, values] of [
            [layer.weight, layerInputs.weight],
            [layer.bias!, layerInputs.bias],
            [layer.lora_A.weight, layerInputs.a],
            [layer.lora_B.weight, layerInputs.b],
          ] as const)
            p.copy_(tensor(values));
        });
        const x = tensor(layerInputs.x).to(dtype).detach();
        x.requiresGrad = true;
        const y = layer.forward(x);
        y.backward(tensor(layerInputs.y_grad).to(dtype));
        const numbers = (t: Tensor) => t.detach().to('float32').toNumbers();
        const a = layer.lora_A.weight.grad!;
        const b = layer.lora_B.weight.grad!;
        expect([y.dtype, x.grad!.dtype, a.dtype, b.dtype]).toEqual([dtype, dtype, 'float32', 'float32']);
        expect(relativeError(numbers(y), wanted.y.flat())).toBeLessThan(bound);
        expect(relativeError(numbers(x.grad!), wanted.x_grad.flat())).toBeLessThan(bound);
        expect(relativeError(numbers(a), wanted.a_grad.flat())).toBeLessThan(tolerance(1e-6));
        expect(relativeError(numbers(b), wanted.b_grad.flat())).toBeLessThan(tolerance(1e-6));
        if (dtype === 'bfloat16') {
          const same = numbers(y).filter((v, i) => v === wanted.y.flat()[i]).length;
          expect(same).toBeGreaterThan(0.9 * wanted.y.flat().length);
        }
        layer.merge();
        expect(relativeError(numbers(layer.weight), wanted.merged.flat())).toBeLessThan(bound);
        for (const p of [layer.lora_A.weight, layer.lora_B.weight]) p.grad = null;
      });
    });
  },
);

describe('an adapter folder of PEFT', () => {
  test('gives the logits of PEFT, adapted, merged and taken off again', () => {
    using model = openBase();
    expect(relativeError(lastLogits(model), theCase.float32.plain)).toBeLessThan(tolerance(1e-5));
    const { config, layers } = loadAdapter(model.module, adapterFolder);
    expect(config).toMatchObject({
      rank: theCase.rank,
      alpha: theCase.alpha,
      baseModel: theCase.base,
      targets: golden.targets,
    });
    expect(layers.size).toBe(14);
    model.module.eval();
    expect(relativeError(theCase.float32.adapted, theCase.float32.plain)).toBeGreaterThan(0.05);
    expect(relativeError(lastLogits(model), theCase.float32.adapted)).toBeLessThan(tolerance(1e-5));
    mergeLora(model.module);
    expect(relativeError(lastLogits(model), theCase.float32.merged)).toBeLessThan(tolerance(1e-5));
    unmergeLora(model.module);
    removeLora(model.module);
    expect(relativeError(lastLogits(model), theCase.float32.plain)).toBeLessThan(tolerance(1e-5));
  });

  test('on a bfloat16 base agrees within rounding', () => {
    using model = openBase('bfloat16');
    loadAdapter(model.module, adapterFolder);
    model.module.eval();
    const distance = relativeError(theCase.bfloat16.adapted, theCase.float32.adapted);
    expect(relativeError(lastLogits(model), theCase.bfloat16.adapted)).toBeLessThan(Math.max(0.02, 2 * distance));
  });

  test('trains as PEFT does: losses, gradients, steps', () => {
    using model = openBase();
    loadAdapter(model.module, adapterFolder);
    model.module.eval();
    const { lr, weight_decay: weightDecay, losses, gradient_norms, moved_norms } = theCase.training;
    const parameters = loraParameters(model.module);
    using optimizer = new AdamW(parameters, { lr, weightDecay });
    scope(() => {
      const before = new Map([...parameters].map(([name, p]) => [name, p.detach().clone()]));
      const got = losses.map((_, step) =>
        scope(() => {
          const { loss } = lossOf(model);
          loss.backward();
          if (step === 0) expectNorms(parameters, gradient_norms, (p) => p.grad!, tolerance(1e-4));
          optimizer.step();
          optimizer.zeroGrad();
          return loss.item();
        }),
      );
      expect(relativeError(got, losses)).toBeLessThan(tolerance(1e-5));
      expectNorms(parameters, moved_norms, (p, name) => p.detach().sub(before.get(name)!), 1e-2);
    });
  });

  test('draws the same dropout from the same seed', () => {
    using model = openBase();
    loadAdapter(model.module, adapterFolder);
    model.module.train();
    const parameters = loraParameters(model.module);
    scope(() => {
      const batch = batchOf(); // draws pixels
      manualSeed(theCase.dropout.seed);
      const { loss } = lossOf(model, batch);
      loss.backward();
      expect(Math.abs(loss.item() - theCase.training.losses[0]!)).toBeGreaterThan(1e-3);
      expect(Math.abs(loss.item() / theCase.dropout.loss - 1)).toBeLessThan(tolerance(1e-5));
      expectNorms(parameters, theCase.dropout.gradient_norms, (p) => p.grad!, tolerance(1e-4));
      for (const p of parameters.values()) p.grad = null;
    });
  });

  test('is written again with the same names and bytes', () => {
    using model = openBase();
    const { config } = loadAdapter(model.module, adapterFolder);
    saveAdapter(model.module, temporary, config, { baseModel: theCase.base, style: model.pathStyle });
    using ours = openSafetensors(path.join(temporary, 'adapter_model.safetensors'));
    using theirs = openSafetensors(path.join(adapterFolder, 'adapter_model.safetensors'));
    expect(ours.names().toSorted()).toEqual(theirs.names().toSorted());
    scope(() => {
      for (const name of theirs.names()) expect(ours.read(name).bytes(), name).toEqual(theirs.read(name).bytes());
    });
    const read = (folder: string) => JSON.parse(fs.readFileSync(path.join(folder, 'adapter_config.json'), 'utf8'));
    const [mine, original] = [read(temporary), read(adapterFolder)];
    for (const [key, value] of Object.entries(mine)) expect(original[key], key).toEqual(value);
  });
});

describe('adapter folders', () => {
  /** A copy of PEFT's folder with its files changed. */
  function changed(
    name: string,
    rename: (name: string) => string | null,
    config: Record<string, unknown> = {},
  ): string {
    const folder = path.join(temporary, name);
    fs.mkdirSync(folder);
    const json = JSON.parse(fs.readFileSync(path.join(adapterFolder, 'adapter_config.json'), 'utf8'));
    fs.writeFileSync(path.join(folder, 'adapter_config.json'), JSON.stringify({ ...json, ...config }));
    using file = openSafetensors(path.join(adapterFolder, 'adapter_model.safetensors'));
    scope(() => {
      const tensors = new Map(
        file.names().flatMap((stored) => {
          const target = rename(stored);
          return target === null ? [] : [[target, file.read(stored)] as const];
        }),
      );
      saveSafetensors(path.join(folder, 'adapter_model.safetensors'), tensors);
    });
    return folder;
  }

  test('with the module paths of older transformers, or the adapter name in them, are the same adapter', () => {
    for (const rename of [
      (name: string) => name.replace('model.language_model.', 'model.'),
      (name: string) => name.replace(/\.weight$/, '.default.weight'),
    ]) {
      const folder = changed(`style-${Math.random()}`, rename);
      using model = openBase();
      loadAdapter(model.module, folder);
      model.module.eval();
      expect(relativeError(lastLogits(model), theCase.float32.adapted)).toBeLessThan(tolerance(1e-5));
    }
  });

  test('flat and nested names of one adapter', () => {
    using model = openBase();
    const { config } = loadAdapter(model.module, adapterFolder);
    const folder = path.join(temporary, 'flat');
    fs.mkdirSync(folder);
    saveAdapter(model.module, folder, config, { style: 'flat' });
    using file = openSafetensors(path.join(folder, 'adapter_model.safetensors'));
    expect(file.names()).toContain('base_model.model.model.layers.1.mlp.up_proj.lora_B.weight');
  });

  test('that do not fit are refused, and the model stays as it was', () => {
    using model = openBase();
    const before = [...model.module.stateDict().keys()];
    const last = 'lora_B.weight';
    const cases: [string, RegExp, ((name: string) => string | null)?, Record<string, unknown>?][] = [
      [
        'no-layer',
        /belongs to no linear layer of the base model \(model\.layers\.7\./,
        (name) => name.replace('layers.1', 'layers.7'),
      ],
      ['half', /has no counterpart lora_B/, (name) => (name.endsWith(`layers.0.mlp.up_proj.${last}`) ? null : name)],
      [
        'foreign',
        /is no factor of a LoRA adapter/,
        (name) => (name.endsWith(`0.mlp.up_proj.${last}`) ? 'base_model.model.lm_head.weight' : name),
      ],
      [
        'swapped',
        /down_proj is 48 -> 32, but its factors are \[2, 32\] and \[48, 2\]/,
        (name) => name.replace(/(up|down)_proj/, (which) => (which === 'up_proj' ? 'down_proj' : 'up_proj')),
      ],
      ['dora', /adapter_config\.json: use_dora is true, which is not supported/, undefined, { use_dora: true }],
      ['kind', /is no LoRA adapter that can be read/, undefined, { peft_type: 'IA3' }],
    ];
    for (const [name, message, rename, config] of cases) {
      const folder = changed(name, rename ?? ((stored) => stored), config);
      expect(() => loadAdapter(model.module, folder), name).toThrow(message);
    }
    const torn = changed('torn', (stored) => stored);
    fs.truncateSync(path.join(torn, 'adapter_model.safetensors'), 5000);
    expect(() => loadAdapter(model.module, torn)).toThrow(/adapter_model\.safetensors/);
    expect([...model.module.stateDict().keys()]).toEqual(before);
  });

  test('rsLoRA scales by the square root of the rank', () => {
    const folder = changed('rs', (stored) => stored, { use_rslora: true });
    using model = openBase();
    const { layers } = loadAdapter(model.module, folder);
    expect([...layers.values()][0]!.scaling).toBeCloseTo(6 / Math.SQRT2, 12);
  });

  test('a new adapter trains only itself and leaves the base bytes alone', () => {
    using model = openBase('bfloat16');
    const bytes = () => model.module.stateDict().get('model.layers.0.mlp.up_proj.weight')!.bytes();
    const before = bytes();
    manualSeed(3);
    injectLora(model.module, { rank: 4, alpha: 8, dropout: 0.1, targets: golden.targets });
    model.module.train();
    const parameters = loraParameters(model.module);
    using optimizer = new AdamW(parameters, { lr: 1e-2 });
    const losses = Array.from({ length: 6 }, () =>
      scope(() => {
        const { loss } = lossOf(model);
        loss.backward();
        optimizer.step();
        optimizer.zeroGrad();
        return loss.item();
      }),
    );
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.1);
    expect(bytes()).toEqual(before);
  });
});
