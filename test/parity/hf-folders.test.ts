/** Model folders as Hugging Face writes them: names, configs, shards and dtypes; what transformers computes from them; and broken ones. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type Linear,
  liveTensorCount,
  openCheckpoint,
  saveSafetensors,
  scope,
  setNumThreads,
  type Tensor,
  zeros,
} from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { UserError } from '../../packages/ivtlr/src/errors.ts';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import type { LoadModelOptions } from '../../packages/ivtlr/src/models/family.ts';
import type { Qwen2VL } from '../../packages/ivtlr/src/models/qwen2-vl/model.ts';
import { createModel, loadModel, saveModel } from '../../packages/ivtlr/src/models/registry.ts';
import { type GoldenCase, makeBatch, readGolden, relativeError, type Stats, seededImages } from './model.ts';

interface Computed {
  vision: Stats | Stats[];
  last_logits: number[] | number[][];
  greedy?: number[] | number[][];
}

interface FolderCase extends GoldenCase {
  folder: string;
  tie: boolean;
  dtype: 'float32' | 'bfloat16';
  input_ids: number[];
  float32: Computed;
  bfloat16?: Computed;
  tensors: { count: number; some: string[] };
}

setNumThreads(1);
const { cases } = readGolden<{ cases: FolderCase[] }>('hf-tiny.json');
const goldens = fileURLToPath(new URL('goldens/', import.meta.url));
const plain = join(goldens, 'hf-tiny-f32');
const sharded = join(goldens, 'hf-tiny-bf16-sharded');

const baseline = liveTensorCount();
let folder: string;
beforeEach(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-folder-'));
});
afterEach(() => {
  fs.rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const config = (path: string): Record<string, unknown> =>
  JSON.parse(fs.readFileSync(join(path, 'config.json'), 'utf8'));

function withModel<T>(path: string, options: LoadModelOptions, body: (model: Qwen2VL) => T): T {
  const model = loadModel(path, options) as Qwen2VL;
  try {
    return scope(() => body(model));
  } finally {
    model.dispose();
  }
}

/** Largest relative errors of image features and last logits, and the greedy tokens. Inside a scope. */
function compute(model: Qwen2VL, golden: FolderCase, wanted: Computed) {
  const images = seededImages(golden);
  const ids = golden.input_ids;
  const [features] = model.encodeImages(images) as [Tensor];
  const vision = [wanted.vision].flat()[0]!;
  expect(features.shape).toEqual(vision.shape);
  const flat = features.toNumbers();
  const weighted = flat.reduce((sum, x, i) => sum + (x * ((i % 97) + 1)) / 97, 0);
  const batch = makeBatch([ids], [ids.map(() => 1)], images, golden.ids);
  const result = generateAll(model, batch, {
    ...LATENT_DEFAULTS,
    positions: 'mrope',
    maxNewTokens: 8,
    eosIds: [],
    trace: true,
    firstLogits: true,
  });
  return {
    vision: Math.max(
      relativeError(flat.slice(0, vision.first.length), vision.first),
      Math.abs(weighted - vision.weighted) / vision.abs_sum,
    ),
    logits: relativeError(result.firstLogits[0]!, [wanted.last_logits].flat(2)),
    greedy: result.tokens[0],
  };
}

test('both naming schemes, both config styles, shards, tied weights and bf16 are among the folders', () => {
  expect(cases.map(({ folder }) => folder)).toEqual([
    'hf-tiny-f32',
    'hf-tiny-flat-config',
    'hf-tiny-new-names',
    'hf-tiny-bf16-sharded',
  ]);
  expect(cases.map(({ folder }) => 'text_config' in config(join(goldens, folder)))).toEqual([true, false, true, true]);
  expect(cases[2]!.tensors.some.some((name) => name.startsWith('model.language_model.'))).toBe(true);
  expect(cases[3]).toMatchObject({ tie: true, dtype: 'bfloat16' });
});

describe.each(cases.map((golden) => [golden.folder, golden] as const))('%s', (name, golden) => {
  const path = join(goldens, name);

  test('loads under its stored dtype', () => {
    withModel(path, {}, (model) => {
      expect(model.dtype).toBe(golden.dtype);
      const parameters = model.namedParameters();
      expect(parameters.size).toBe(golden.weights.count);
      for (const [parameter, first] of Object.entries(golden.weights.first)) {
        const got = parameters.get(parameter)!.flatten().narrow(0, 0, first.length).toNumbers();
        expect(relativeError(got, first), parameter).toBeLessThan(golden.dtype === 'bfloat16' ? 4e-3 : 1e-6);
      }
      let sum = 0;
      for (const parameter of parameters.values()) sum += parameter.detach().to('float64').abs().sum().item();
      expect(Math.abs(sum / golden.weights.abs_sum - 1)).toBeLessThan(golden.dtype === 'bfloat16' ? 1e-3 : 1e-6);
      expect((model.lm_head as Linear).weight === model.model.embed_tokens.weight).toBe(golden.tie);
    });
  });

  test('float32: features, logits and tokens as transformers', () => {
    withModel(path, { dtype: 'float32' }, (model) => {
      const got = compute(model, golden, golden.float32);
      expect(got.vision).toBeLessThan(1e-4);
      expect(got.logits).toBeLessThan(1e-4);
      expect(got.greedy).toEqual([golden.float32.greedy!].flat(2));
    });
  });

  if (golden.bfloat16)
    test('bfloat16: within its rounding', () => {
      withModel(path, {}, (model) => {
        for (const wanted of [golden.bfloat16!, golden.float32]) {
          const got = compute(model, golden, wanted);
          expect(got.vision).toBeLessThan(0.02);
          expect(got.logits).toBeLessThan(0.02);
        }
      });
    });

  test('saved and loaded again it is the same', () => {
    withModel(path, {}, (model) => {
      saveModel(model, config(path), folder);
      withModel(folder, {}, (again) => {
        const parameters = again.namedParameters();
        expect([...parameters.keys()]).toEqual([...model.namedParameters().keys()]);
        for (const [parameter, tensor] of model.namedParameters()) {
          expect(parameters.get(parameter)!.dtype).toBe(golden.dtype);
          expect(parameters.get(parameter)!.bytes(), parameter).toEqual(tensor.bytes());
        }
      });
      using file = openCheckpoint(folder);
      expect(file.names().length).toBe(golden.tensors.count);
      expect(file.has('lm_head.weight')).toBe(!golden.tie);
    });
  });
});

test('a tied head that is stored all the same says nothing new', () => {
  copy(sharded);
  edit((tensors) =>
    tensors.set('lm_head.weight', zeros(tensors.get('model.embed_tokens.weight')!.shape, { dtype: 'bfloat16' })),
  );
  withModel(folder, {}, (model) =>
    expect((model.lm_head as Linear).weight.detach().abs().sum().item()).toBeGreaterThan(0),
  );
});

function copy(from: string): void {
  fs.cpSync(from, folder, { recursive: true });
}

/** Changes the folder's weights; they become one file. */
function edit(change: (tensors: Map<string, Tensor>) => void): void {
  scope(() => {
    using file = openCheckpoint(folder);
    const tensors = new Map(file.names().map((name) => [name, file.read(name)]));
    change(tensors);
    for (const name of fs.readdirSync(folder)) if (name.startsWith('model')) fs.rmSync(join(folder, name));
    saveSafetensors(join(folder, 'model.safetensors'), tensors);
  });
}

function editConfig(change: (json: Record<string, unknown>) => void): void {
  const json = config(folder);
  change(json);
  fs.writeFileSync(join(folder, 'config.json'), JSON.stringify(json));
}

const BROKEN: [string, string, () => void, RegExp][] = [
  [
    'an unknown model_type',
    plain,
    () => editConfig((json) => Object.assign(json, { model_type: 'qwen3' })),
    /config\.json: model_type is "qwen3", known are .*qwen2_vl/,
  ],
  ['no model_type', plain, () => editConfig((json) => delete json.model_type), /config\.json: model_type is missing/],
  ['no config', plain, () => fs.rmSync(join(folder, 'config.json')), /config\.json/],
  [
    'a config that is no JSON',
    plain,
    () => fs.writeFileSync(join(folder, 'config.json'), '{"model_type":'),
    /config\.json/,
  ],
  [
    'a config without a size, whose default is another',
    plain,
    () => editConfig((json) => delete (json.vision_config as Record<string, unknown>).depth),
    /weights do not fit config\.json: .*visual\.blocks\.1\..* and \d+ more/,
  ],
  [
    'sizes beyond all bounds',
    join(goldens, 'hf-tiny-flat-config'),
    () => editConfig((json) => Object.assign(json, { num_hidden_layers: 1e9, hidden_size: 1e9, vocab_size: 1e12 })),
    /config\.json: hidden_size: Too big/,
  ],
  [
    'sizes of terabytes',
    join(goldens, 'hf-tiny-flat-config'),
    () =>
      editConfig((json) =>
        Object.assign(json, { intermediate_size: 2 ** 20, vocab_size: 2 ** 24, num_hidden_layers: 900 }),
      ),
    /weights do not fit config\.json: .*\[160, 32\].*\[16777216, 32\]/,
  ],
  [
    'weights of whole numbers',
    plain,
    () => edit((tensors) => tensors.set('model.norm.weight', tensors.get('model.norm.weight')!.to('int32'))),
    /the weight model\.norm\.weight is of int32; weights should be float32/,
  ],
  [
    'a file without tensors',
    plain,
    () => edit((tensors) => tensors.clear()),
    /the file of the weights holds no tensors/,
  ],
  [
    'quantised weights',
    plain,
    () => editConfig((json) => Object.assign(json, { quantization_config: { quant_method: 'bitsandbytes' } })),
    /config\.json: the weights are quantised \(bitsandbytes\), .*use the unquantised model, or save this one dequantised/,
  ],
  [
    'a quantised text model',
    plain,
    () => editConfig((json) => Object.assign(json.text_config as object, { quantization_config: { bits: 4 } })),
    /config\.json: the weights are quantised \(quantization_config\)/,
  ],
  [
    'sizes that do not divide',
    join(goldens, 'hf-tiny-flat-config'),
    () => editConfig((json) => Object.assign(json, { num_attention_heads: 3 })),
    /config\.json: .*num_attention_heads.*divide/,
  ],
  [
    'no weights',
    plain,
    () => fs.rmSync(join(folder, 'model.safetensors')),
    /neither model\.safetensors nor model\.safetensors\.index\.json/,
  ],
  [
    'a missing shard',
    sharded,
    () => fs.rmSync(join(folder, 'model-00002-of-00003.safetensors')),
    /model-00002-of-00003\.safetensors/,
  ],
  [
    'a shard without its tensor',
    sharded,
    () =>
      fs.copyFileSync(
        join(folder, 'model-00001-of-00003.safetensors'),
        join(folder, 'model-00003-of-00003.safetensors'),
      ),
    /index\.json: tensor .* should be in model-0000\d-of-00003\.safetensors but is not/,
  ],
  ['a cut file', plain, () => fs.truncateSync(join(folder, 'model.safetensors'), 5000), /model\.safetensors/],
  [
    'a missing tensor',
    plain,
    () => edit((tensors) => tensors.delete('model.norm.weight')),
    /weights do not fit config\.json: .*model\.norm\.weight/,
  ],
  [
    'a tensor too many',
    plain,
    () => edit((tensors) => tensors.set('model.extra', zeros([1]))),
    /weights do not fit config\.json: .*model\.extra/,
  ],
  [
    'a wrong shape',
    plain,
    () => edit((tensors) => tensors.set('model.norm.weight', zeros([31]))),
    /model\.norm\.weight has shape \[31\].*\[32\]/,
  ],
  [
    'a vocabulary of another size',
    join(goldens, 'hf-tiny-flat-config'),
    () => editConfig((json) => Object.assign(json, { vocab_size: 161 })),
    /has shape \[160, 32\].*\[161, 32\]/,
  ],
];

test.each(BROKEN)('%s is said', (_, from, damage, message) => {
  copy(from);
  damage();
  let error: unknown;
  try {
    (loadModel(folder) as Qwen2VL).dispose();
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(UserError);
  expect((error as Error).message).toMatch(message);
  expect((error as Error).message).toContain(folder);
});

test('a model made from a config.json alone must fit in memory', () => {
  const huge = { ...config(join(goldens, 'hf-tiny-flat-config')), vocab_size: 2 ** 24, intermediate_size: 2 ** 20 };
  const make = () => createModel({ ...huge, num_hidden_layers: 1000 }, 1, { source: '/m/config.json' });
  expect(make).toThrow(UserError);
  expect(make).toThrow(/^\/m\/config\.json: the weights of this model need \d+\.\d GB, but the machine has/);
});

test('a folder that is not there', () => {
  expect(() => loadModel(join(folder, 'nowhere'))).toThrow(/nowhere: there is no such model folder/);
});
