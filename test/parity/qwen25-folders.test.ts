/** Qwen2.5-VL folders: shards as transformers writes them, an adapter of PEFT's, published config.json files, and the picture set. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { type DType, liveTensorCount, openCheckpoint, openSafetensors, scope } from '@ivtlr/torch';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openWithoutWeights } from '../../packages/ivtlr/src/engine/folder-rendering.ts';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { loadAdapter, saveAdapter } from '../../packages/ivtlr/src/lora/adapter-folder.ts';
import { injectLora, loraLayers } from '../../packages/ivtlr/src/lora/inject.ts';
import { loraSchema } from '../../packages/ivtlr/src/lora/options.ts';
import { parseQwen25VLConfig } from '../../packages/ivtlr/src/models/qwen2-5-vl/config.ts';
import { qwen25Vl } from '../../packages/ivtlr/src/models/qwen2-5-vl/family.ts';
import type { Qwen25VL } from '../../packages/ivtlr/src/models/qwen2-5-vl/model.ts';
import { loadModel, saveModel } from '../../packages/ivtlr/src/models/registry.ts';
import { type GoldenCase, makeBatch, readGolden, relativeError, seededImages, seededModel } from './model.ts';
import { writeQwenTokenizer } from './qwen-tokenizer.ts';

interface FolderCase extends GoldenCase {
  input_ids: number[];
}

interface Resolved extends Record<string, unknown> {
  rope: { rope_theta: number; mrope_section: number[] };
  vision: Record<string, number> & { fullatt_block_indexes: number[] };
}

const { sharded, lora, configs } = readGolden<{
  sharded: FolderCase & { folder: string; last_logits: number[]; greedy: number[]; names: string[] };
  lora: FolderCase & { adapter: string; plain: number[]; adapted: number[] };
  configs: { name: string; config: unknown; read: Resolved }[];
}>('qwen25-folders.json');
const goldens = fileURLToPath(new URL('goldens/', import.meta.url));
const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'qwen25-folders-'));
const readConfig = (folder: string) => JSON.parse(fs.readFileSync(path.join(folder, 'config.json'), 'utf8'));

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => fs.rmSync(temporary, { recursive: true }));

/** Last logits and greedy tokens. */
function answer(model: Qwen25VL, golden: FolderCase, maxNewTokens = 1) {
  return scope(() => {
    const ids = golden.input_ids;
    const batch = makeBatch([ids], [ids.map(() => 1)], seededImages(golden), golden.ids);
    const options = { ...LATENT_DEFAULTS, positions: 'mrope', maxNewTokens, eosIds: [], firstLogits: true } as const;
    const result = generateAll(model, batch, options);
    return { logits: result.firstLogits[0]!, tokens: result.tokens[0]! };
  });
}

describe('a sharded, tied bfloat16 folder as transformers writes it', () => {
  const folder = path.join(goldens, sharded.folder);
  const load = (dtype?: DType) => loadModel(folder, dtype ? { dtype } : {}) as Qwen25VL;

  test('in float32: logits and tokens as transformers', () => {
    using model = load('float32');
    expect(sharded.names).toContain('visual.blocks.1.mlp.gate_proj.bias');
    expect(sharded.names).not.toContain('lm_head.weight');
    const { logits, tokens } = answer(model, sharded, sharded.greedy.length);
    expect(relativeError(logits, sharded.last_logits)).toBeLessThan(1e-4);
    expect(tokens).toEqual(sharded.greedy);
  });

  test('as stored: within the rounding of bfloat16; under the newer names and after saving the same bytes', () => {
    using model = load();
    expect(model.dtype).toBe('bfloat16');
    expect(relativeError(answer(model, sharded).logits, sharded.last_logits)).toBeLessThan(0.05);
    const copy = fs.mkdtempSync(path.join(temporary, 'saved-'));
    saveModel(model, readConfig(folder), copy);
    using file = openCheckpoint(folder);
    expect(file.names().length).toBe(sharded.names.length);
    const file2 = path.join(copy, 'model.safetensors');
    // The header's names in today's nesting; JSON's white space keeps the offsets.
    const bytes = fs.readFileSync(file2);
    const length = Number(bytes.readBigUInt64LE(0));
    const header = bytes
      .toString('utf8', 8, 8 + length)
      .replaceAll('"visual.', '"model.visual.')
      .replaceAll(/"model\.(?!visual)/g, '"model.language_model.');
    const padded = header.padEnd(Math.ceil(header.length / 8) * 8);
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(padded.length));
    fs.writeFileSync(file2, Buffer.concat([size, Buffer.from(padded), bytes.subarray(8 + length)]));
    using newNames = openSafetensors(file2);
    expect(newNames.names()).toContain('model.language_model.layers.0.mlp.up_proj.weight');
    using again = loadModel(copy) as Qwen25VL;
    for (const [name, tensor] of model.namedParameters())
      expect(again.namedParameters().get(name)!.bytes(), name).toEqual(tensor.bytes());
  });
});

describe('adapters', () => {
  const folder = path.join(goldens, lora.adapter);

  test('of PEFT, which adapts the vision tower too where a target names its layers', () => {
    using model = seededModel(lora) as Qwen25VL;
    expect(relativeError(answer(model, lora).logits, lora.plain)).toBeLessThan(1e-4);
    const { layers } = loadAdapter(model, folder);
    model.eval();
    expect([...layers.keys()].filter((name) => name.startsWith('visual.'))).toHaveLength(6);
    expect(relativeError(answer(model, lora).logits, lora.adapted)).toBeLessThan(1e-4);
    expect(relativeError(lora.plain, lora.adapted)).toBeGreaterThan(0.05);
  });

  test('of ours are in the decoder alone, and PEFT is told which layers stay plain', () => {
    using model = seededModel(lora) as Qwen25VL;
    const options = loraSchema.parse({ rank: 2 });
    injectLora(model, options);
    const adapted = [...loraLayers(model).keys()];
    expect(adapted).toHaveLength(14);
    expect(adapted.every((name) => name.startsWith('model.layers.'))).toBe(true);
    const copy = fs.mkdtempSync(path.join(temporary, 'adapter-'));
    saveAdapter(model, copy, options, { baseModel: 'base', style: model.pathStyle });
    const stored = JSON.parse(fs.readFileSync(path.join(copy, 'adapter_config.json'), 'utf8'));
    expect(stored.exclude_modules).toEqual(
      [0, 1].flatMap((block) =>
        ['gate_proj', 'up_proj', 'down_proj'].map((name) => `model.visual.blocks.${block}.mlp.${name}`),
      ),
    );
    using other = seededModel(lora) as Qwen25VL;
    injectLora(other, { ...options, targets: ['qkv'] });
    expect([...loraLayers(other).keys()]).toEqual(['visual.blocks.0.attn.qkv', 'visual.blocks.1.attn.qkv']);
    const { exclude_modules } = JSON.parse(fs.readFileSync(path.join(folder, 'adapter_config.json'), 'utf8'));
    expect(exclude_modules).toBeNull();
  });
});

test.each(configs)('config.json: $name', ({ config, read }) => {
  const { vision } = read;
  expect(vision.hidden_act).toBe('silu');
  expect(parseQwen25VLConfig(config, 'config.json')).toEqual({
    hiddenSize: read.hidden_size,
    layers: read.num_hidden_layers,
    heads: read.num_attention_heads,
    keyValueHeads: read.num_key_value_heads,
    intermediateSize: read.intermediate_size,
    vocabularySize: read.vocab_size,
    normEps: read.rms_norm_eps,
    ropeTheta: read.rope.rope_theta,
    ropeScaling: null,
    maxPositions: read.max_position_embeddings,
    mropeSections: read.rope.mrope_section ?? [16, 24, 24],
    tied: read.tie_word_embeddings,
    imageTokenId: read.image_token_id,
    vision: {
      depth: vision.depth,
      dim: vision.hidden_size,
      heads: vision.num_heads,
      mlpDim: vision.intermediate_size,
      patchSize: vision.patch_size,
      frames: vision.temporal_patch_size,
      merge: vision.spatial_merge_size,
      channels: vision.in_channels,
      window: vision.window_size! / 28,
      fullAttention: new Set(vision.fullatt_block_indexes),
    },
  });
});

describe('a folder as it is opened', () => {
  interface Pixels {
    grid: number[];
    step: number;
    samples: number[];
  }
  const preprocess = readGolden<{
    cases: { file: string; width: number; height: number; decoded: string; smart: Pixels | { error: string } }[];
  }>('preprocess/preprocess.json');
  const folder = path.join(temporary, 'opened');
  fs.mkdirSync(folder);
  fs.writeFileSync(path.join(folder, 'config.json'), JSON.stringify(lora.config));

  // The generator of the golden makes sure that the image processors are one and the same.
  test('reads every picture of the set as the processor does', async () => {
    const inputs = qwen25Vl.inputs(folder, { profile: 'consistent' });
    for (const { file, width, height, decoded, smart } of preprocess.cases) {
      const data = new Uint8Array(gunzipSync(fs.readFileSync(path.join(goldens, 'preprocess', decoded))));
      const image = { kind: 'rgb', width, height, data } as const;
      if ('error' in smart) {
        await expect(inputs.prepare(image), file).rejects.toThrow(/at most 200 times/);
        continue;
      }
      const prepared = await inputs.prepare(image);
      scope(() => {
        const { pixels, grid } = inputs.finish(prepared);
        expect(grid, file).toEqual(smart.grid);
        const values = pixels.toNumbers();
        expect(
          relativeError(
            smart.samples.map((_, i) => values[i * smart.step]!),
            smart.samples,
          ),
          file,
        ).toBeLessThan(1e-5);
      });
    }
  });

  test('has the profiles consistent and plain, and says that there is no official one', () => {
    writeQwenTokenizer(folder);
    const render = openWithoutWeights(folder, { profile: 'consistent' }).renderOptions('m3cot');
    expect(render.profile.train.text(' Q? ', ['a'])).toBe('[Question]:{Q?}\n[Options]:\n(A).{a}\nAnswer:\n');
    expect(render.profile.infer).toBe(render.profile.train);
    expect(() => openWithoutWeights(folder, { profile: 'official' })).toThrow(
      'there is no profile official for qwen2_5_vl, which the official IVT-LR code does not know: use consistent or plain',
    );
  });
});
