/** Folders of Qwen2.5-VL and Qwen3-VL: weights as transformers writes them, an adapter of PEFT's, published config.json files, and the picture set. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { type DType, liveTensorCount, openCheckpoint, openSafetensors, scope } from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openWithoutWeights } from '../../packages/ivtlr/src/engine/folder-rendering.ts';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { loadAdapter, saveAdapter } from '../../packages/ivtlr/src/lora/adapter-folder.ts';
import { injectLora, loraLayers } from '../../packages/ivtlr/src/lora/inject.ts';
import { loraSchema } from '../../packages/ivtlr/src/lora/options.ts';
import { parseQwen25VLConfig } from '../../packages/ivtlr/src/models/qwen2-5-vl/config.ts';
import { qwen25Vl } from '../../packages/ivtlr/src/models/qwen2-5-vl/family.ts';
import { parseQwen3VLConfig } from '../../packages/ivtlr/src/models/qwen3-vl/config.ts';
import { qwen3Vl } from '../../packages/ivtlr/src/models/qwen3-vl/family.ts';
import { loadModel, saveModel } from '../../packages/ivtlr/src/models/registry.ts';
import {
  type GoldenCase,
  makeBatch,
  readGolden,
  relativeError,
  type SeededModel,
  seededImages,
  seededModel,
} from './model.ts';
import { writeQwenTokenizer } from './qwen-tokenizer.ts';
import { type NewerQwen, newerQwen } from './resolved-config.ts';

interface FolderCase extends GoldenCase {
  input_ids: number[];
}

interface Stored extends FolderCase {
  folder: string;
  dtype: DType;
  tie: boolean;
  last_logits: number[];
  greedy: number[];
  names: string[];
}

interface Folders {
  stored: Stored[];
  lora: FolderCase & { adapter: string; in_tower: number; plain: number[]; adapted: number[] };
  configs: { name: string; config: unknown; read: NewerQwen }[];
  preprocessor: Record<string, unknown> & { image_mean: number[]; image_std: number[] };
  pictures: {
    file: string;
    decoded: string;
    width: number;
    height: number;
    error?: string;
    grid: number[];
    levels: string;
    step: number;
    values: number[];
  }[];
}

const FAMILIES = [
  { name: 'qwen25', modelType: 'qwen2_5_vl', family: qwen25Vl, parse: parseQwen25VLConfig },
  { name: 'qwen3', modelType: 'qwen3_vl', family: qwen3Vl, parse: parseQwen3VLConfig },
] as const;

const goldens = fileURLToPath(new URL('goldens/', import.meta.url));
const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'qwen-folders-'));
const readConfig = (folder: string) => JSON.parse(fs.readFileSync(path.join(folder, 'config.json'), 'utf8'));

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => fs.rmSync(temporary, { recursive: true }));

/** Last logits and greedy tokens. */
function answer(model: SeededModel, golden: FolderCase, maxNewTokens = 1) {
  return scope(() => {
    const ids = golden.input_ids;
    const batch = makeBatch([ids], [ids.map(() => 1)], seededImages(golden), golden.ids);
    const options = { ...LATENT_DEFAULTS, positions: 'mrope', maxNewTokens, eosIds: [], firstLogits: true } as const;
    const result = generateAll(model, batch, options);
    return { logits: result.firstLogits[0]!, tokens: result.tokens[0]! };
  });
}

/** The same bytes under other names: the header is rewritten, and JSON's white space keeps its length a multiple of eight. */
function rename(file: string, newName: (name: string) => string): void {
  const bytes = fs.readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, unknown>;
  const renamed = JSON.stringify(
    Object.fromEntries(Object.entries(header).map(([key, value]) => [newName(key), value])),
  );
  const padded = renamed.padEnd(Math.ceil(renamed.length / 8) * 8);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(Buffer.byteLength(padded)));
  fs.writeFileSync(file, Buffer.concat([size, Buffer.from(padded), bytes.subarray(8 + length)]));
}

const nested = (name: string) => {
  if (name.startsWith('visual.')) return `model.${name}`;
  return name.startsWith('model.') ? `model.language_model.${name.slice('model.'.length)}` : name;
};

describe.each(FAMILIES)('$name', ({ name, modelType, family, parse }) => {
  const { stored, lora, configs, preprocessor, pictures } = readGolden<Folders>(`${name}-folders.json`);

  describe.each(stored)('$folder as transformers writes it', (golden) => {
    const folder = path.join(goldens, golden.folder);
    const load = (dtype?: DType) => loadModel(folder, dtype ? { dtype } : {}) as SeededModel;

    test('in float32: logits and tokens as transformers', () => {
      using model = load('float32');
      expect(golden.names.includes('lm_head.weight')).toBe(!golden.tie);
      const { logits, tokens } = answer(model, golden, golden.greedy.length);
      expect(relativeError(logits, golden.last_logits)).toBeLessThan(1e-4);
      expect(tokens).toEqual(golden.greedy);
    });

    test('as stored: within the rounding of its dtype; saved and under the newer names the same bytes', () => {
      using model = load();
      expect(model.dtype).toBe(golden.dtype);
      expect(relativeError(answer(model, golden).logits, golden.last_logits)).toBeLessThan(0.05);
      const copy = fs.mkdtempSync(path.join(temporary, 'saved-'));
      saveModel(model, readConfig(folder), copy);
      using file = openCheckpoint(folder);
      expect([...file.names()].sort()).toEqual(golden.names);
      const weights = path.join(copy, 'model.safetensors');
      const styles: [string, (name: string) => string][] = [
        ['model.layers.0.mlp.up_proj.weight', (key) => key],
        ['model.language_model.layers.0.mlp.up_proj.weight', nested],
      ];
      for (const [expected, style] of styles) {
        rename(weights, style);
        using names = openSafetensors(weights);
        expect(names.names()).toContain(expected);
        using again = loadModel(copy) as SeededModel;
        for (const [key, tensor] of model.namedParameters())
          expect(again.namedParameters().get(key)!.bytes(), key).toEqual(tensor.bytes());
      }
    });
  });

  describe('adapters', () => {
    const folder = path.join(goldens, lora.adapter);

    test("of PEFT give PEFT's logits", () => {
      using model = seededModel(lora);
      expect(relativeError(answer(model, lora).logits, lora.plain)).toBeLessThan(1e-4);
      const { layers } = loadAdapter(model, folder);
      model.eval();
      expect([...layers.keys()].filter((key) => key.startsWith('visual.'))).toHaveLength(lora.in_tower);
      expect(relativeError(answer(model, lora).logits, lora.adapted)).toBeLessThan(1e-4);
      expect(relativeError(lora.plain, lora.adapted)).toBeGreaterThan(0.05);
    });

    test('of ours are in the decoder alone, and PEFT is told which layers stay plain', () => {
      using model = seededModel(lora);
      const options = loraSchema.parse({ rank: 2 });
      injectLora(model, options);
      const adapted = [...loraLayers(model).keys()];
      expect(adapted).toHaveLength(14);
      expect(adapted.every((key) => key.startsWith('model.layers.'))).toBe(true);
      const copy = fs.mkdtempSync(path.join(temporary, 'adapter-'));
      saveAdapter(model, copy, options, { baseModel: 'base', style: model.pathStyle });
      const written = JSON.parse(fs.readFileSync(path.join(copy, 'adapter_config.json'), 'utf8'));
      // Only Qwen2.5-VL's tower has layers of these names.
      const own = [0, 1].flatMap((block) =>
        ['gate_proj', 'up_proj', 'down_proj'].map((key) => `model.visual.blocks.${block}.mlp.${key}`),
      );
      expect(written.exclude_modules ?? []).toEqual(lora.in_tower > 0 ? own : []);
      using other = seededModel(lora);
      injectLora(other, { ...options, targets: ['qkv'] });
      expect([...loraLayers(other).keys()]).toEqual(['visual.blocks.0.attn.qkv', 'visual.blocks.1.attn.qkv']);
    });
  });

  test.each(configs)('config.json: $name', ({ config, read }) => {
    expect(parse(config, 'config.json')).toEqual(newerQwen(read));
  });

  describe('a folder as it is opened', () => {
    const folder = path.join(temporary, name);
    beforeAll(() => {
      fs.mkdirSync(folder);
      fs.writeFileSync(path.join(folder, 'config.json'), JSON.stringify(lora.config));
      fs.writeFileSync(path.join(folder, 'preprocessor_config.json'), JSON.stringify(preprocessor));
    });

    test('reads every picture of the set as the processor does', async () => {
      const inputs = family.inputs(folder, { profile: 'consistent' });
      expect(pictures.length).toBeGreaterThan(30);
      for (const { file, width, height, decoded, error, grid, levels, step, values } of pictures) {
        const data = new Uint8Array(gunzipSync(fs.readFileSync(path.join(goldens, 'preprocess', decoded))));
        const image = { kind: 'rgb', width, height, data } as const;
        if (error) {
          await expect(inputs.prepare(image), file).rejects.toThrow(/at most 200 times/);
          continue;
        }
        const prepared = await inputs.prepare(image);
        scope(() => {
          const processed = inputs.finish(prepared);
          expect(processed.grid, file).toEqual(grid);
          const own = new Float32Array(processed.pixels.bytes().slice().buffer);
          const { image_mean: mean, image_std: std } = preprocessor;
          const area = processed.pixels.shape[1]! / 3;
          const digest = createHash('sha256').update(
            new Uint8Array(own.length).map((_, i) => {
              const channel = Math.floor(i / area) % 3;
              return Math.round((own[i]! * std[channel]! + mean[channel]!) * 255);
            }),
          );
          expect(digest.digest('hex'), file).toBe(levels);
          const some = values.map((_, i) => own[i * step]!);
          expect(relativeError(some, values), file).toBeLessThan(1e-6);
        });
      }
    });

    test('has the profiles consistent and plain, and says that there is no official one', () => {
      writeQwenTokenizer(folder);
      const render = openWithoutWeights(folder, { profile: 'consistent' }).renderOptions('m3cot');
      expect(render.profile.train.text(' Q? ', ['a'])).toBe('[Question]:{Q?}\n[Options]:\n(A).{a}\nAnswer:\n');
      expect(render.profile.infer).toBe(render.profile.train);
      expect(() => openWithoutWeights(folder, { profile: 'official' })).toThrow(
        `there is no profile official for ${modelType}, which the official IVT-LR code does not know: use consistent or plain`,
      );
    });
  });
});
