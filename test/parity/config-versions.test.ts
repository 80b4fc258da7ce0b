/** config.json files as six versions of transformers write them: the same numbers as transformers reads, and weights that load under each. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { liveTensorCount, scope } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { parseChameleonConfig } from '../../packages/ivtlr/src/models/chameleon/config.ts';
import { parseQwen25VLConfig } from '../../packages/ivtlr/src/models/qwen2-5-vl/config.ts';
import { parseQwen2VLConfig } from '../../packages/ivtlr/src/models/qwen2-vl/config.ts';
import { parseQwen3VLConfig } from '../../packages/ivtlr/src/models/qwen3-vl/config.ts';
import { loadModel } from '../../packages/ivtlr/src/models/registry.ts';
import { parseSmolVlmConfig } from '../../packages/ivtlr/src/models/smolvlm/config.ts';
import { type GoldenCase, makeBatch, readGolden, relativeError, seededImages } from './model.ts';
import { common, type NewerQwen, newerQwen, type Resolved } from './resolved-config.ts';
import { type SmolVlmCase, seededSmolVlmImages } from './smolvlm-model.ts';

interface Older extends Resolved {
  scale_factor?: number;
  swin_norm?: boolean;
  vision?: Record<string, number>;
  vq?: Record<string, unknown>;
}

interface VersionCase {
  name: string;
  version: string;
  config: Record<string, unknown>;
  /** As the version that wrote the file resolves it, and as today's reads it. */
  written: Older;
  read: Older;
}

const golden = readGolden<{ versions: string[]; cases: VersionCase[] }>('config-versions.json');
const baseline = liveTensorCount();
let folder: string;
beforeEach(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-configs-'));
});
afterEach(() => {
  fs.rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const named = (cases: readonly VersionCase[]) =>
  cases.map((one) => [`${one.name}, transformers ${one.version}`, one] as const);
const family = (type: string) => golden.cases.filter(({ config }) => config.model_type === type);

test('six versions, and the short files of the older ones', () => {
  expect(golden.versions).toEqual(['4.45.2', '4.46.3', '4.49.0', '4.51.3', '4.57.6', '5.17.0']);
  const having = (type: string) => new Set(family(type).map(({ version }) => version)).size;
  const types = ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl', 'chameleon', 'idefics3', 'smolvlm'];
  expect(types.map(having)).toEqual([6, 4, 2, 6, 5, 3]);
  for (const version of ['4.45.2', '4.49.0']) {
    const { config } = golden.cases.find((one) => one.version === version && one.name === 'qwen2-vl 2b')!;
    const keys = ['hidden_size', 'in_chans', 'model_type', 'spatial_patch_size'];
    expect(Object.keys(config.vision_config as object).sort()).toEqual(keys);
  }
});

test.each(named(family('qwen2_5_vl')))('%s', (_, { config, written, read }) => {
  for (const wanted of [written, read])
    expect(parseQwen25VLConfig(config, 'config.json')).toEqual(newerQwen(wanted as NewerQwen));
});

test.each(named(family('qwen3_vl')))('%s', (_, { config, written, read }) => {
  for (const wanted of [written, read])
    expect(parseQwen3VLConfig(config, 'config.json')).toEqual(newerQwen(wanted as NewerQwen));
});

test.each(named(family('qwen2_vl')))('%s', (_, { config, written, read }) => {
  const parsed = parseQwen2VLConfig(config, 'config.json');
  for (const wanted of [written, read]) {
    const vision = wanted.vision!;
    expect(parsed).toEqual({
      ...common(wanted),
      mropeSections: wanted.rope.mrope_section,
      // The two oldest versions have no default for it.
      imageTokenId: wanted.image_token_id ?? 151655,
      vision: {
        depth: vision.depth,
        dim: vision.embed_dim,
        heads: vision.num_heads,
        mlpDim: vision.embed_dim! * vision.mlp_ratio!,
        patchSize: vision.patch_size,
        frames: vision.temporal_patch_size,
        merge: vision.spatial_merge_size,
        channels: vision.in_channels,
      },
    });
  }
});

test.each(named(family('chameleon')))('%s', (_, { config, written, read }) => {
  const { num_embeddings: codes } = read.vq as { num_embeddings: number };
  const letters = (code: number) => [...String(code)].map((digit) => String.fromCharCode(65 + Number(digit))).join('');
  const names = Array.from({ length: codes }, (_, code) => [`IMGIMG${letters(code)}Z`, code + 4]);
  const map = { ...(config.vocabulary_map as object), ...Object.fromEntries(names) };
  const parsed = parseChameleonConfig({ ...config, vocabulary_map: map }, 'config.json');
  for (const wanted of [written, read]) {
    const { vq } = wanted;
    expect(parsed).toMatchObject({
      ...common(wanted),
      swinNorm: wanted.swin_norm,
      vq: {
        embedDim: vq!.embed_dim,
        latentChannels: vq!.latent_channels,
        codes,
        resolution: vq!.resolution,
        baseChannels: vq!.base_channels,
        multipliers: vq!.channel_multiplier,
        residualBlocks: vq!.num_res_blocks,
        attentionResolutions: vq!.attn_resolutions ?? [],
        attention: vq!.attn_type === 'vanilla',
      },
    });
  }
});

test.each(named([...family('idefics3'), ...family('smolvlm')]))('%s', (_, { config, written, read }) => {
  const parsed = parseSmolVlmConfig(config, 'config.json');
  for (const wanted of [written, read]) {
    const vision = wanted.vision!;
    expect([wanted.hidden_act, vision.hidden_act, vision.num_channels]).toEqual(['silu', 'gelu_pytorch_tanh', 3]);
    expect(parsed).toEqual({
      ...common(wanted),
      imageTokenId: wanted.image_token_id,
      vision: {
        layers: vision.num_hidden_layers,
        dim: vision.hidden_size,
        heads: vision.num_attention_heads,
        mlpDim: vision.intermediate_size,
        normEps: vision.layer_norm_eps,
        patchSize: vision.patch_size,
        places: Math.floor(vision.image_size! / vision.patch_size!),
        shuffle: wanted.scale_factor,
      },
    });
  }
});

describe('stored weights under the file of each version', () => {
  interface Sharded extends SmolVlmCase {
    folder: string;
    input_ids: number[];
    last_logits: number[];
    greedy: number[][];
  }
  const { sharded } = readGolden<{ sharded: Sharded }>('smolvlm-folders.json');

  // 4.46.3 does not write that the head is tied, and so does not read it either.
  const tied = golden.cases.filter(
    ({ name, read }) => /^(idefics3|smolvlm) tiny$/.test(name) && read.tie_word_embeddings,
  );
  test('all versions but one say that the head is tied', () => expect(tied.length).toBe(7));

  test.each(named(tied))('%s', (_, { config }) => {
    fs.cpSync(fileURLToPath(new URL(`goldens/${sharded.folder}`, import.meta.url)), folder, { recursive: true });
    fs.writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
    const model = loadModel(folder, { dtype: 'float32' });
    scope(() => {
      const { input_ids, ids, ...rest } = sharded;
      const batch = makeBatch([input_ids], [input_ids.map(() => 1)], seededSmolVlmImages(rest), ids);
      const options = { ...LATENT_DEFAULTS, maxNewTokens: 12, eosIds: [], firstLogits: true };
      const result = generateAll(model, batch, options);
      expect(relativeError(result.firstLogits[0]!, sharded.last_logits)).toBeLessThan(1e-4);
      expect(result.tokens).toEqual(sharded.greedy);
    });
    model.module.dispose();
  });

  interface TinyCase extends GoldenCase {
    input_ids: number[];
    float32: { last_logits: number[]; greedy: number[] };
  }
  const tiny = readGolden<{ cases: TinyCase[] }>('hf-tiny.json').cases[0]!;
  const weights = fileURLToPath(new URL('goldens/hf-tiny-f32/model.safetensors', import.meta.url));

  test.each(named(golden.cases.filter(({ name }) => name === 'qwen2-vl tiny')))('%s', (_, { config }) => {
    fs.copyFileSync(weights, join(folder, 'model.safetensors'));
    fs.writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
    const model = loadModel(folder);
    scope(() => {
      const batch = makeBatch([tiny.input_ids], [tiny.input_ids.map(() => 1)], seededImages(tiny), tiny.ids);
      const result = generateAll(model, batch, {
        ...LATENT_DEFAULTS,
        positions: 'mrope',
        maxNewTokens: 8,
        eosIds: [],
        firstLogits: true,
      });
      expect(relativeError(result.firstLogits[0]!, [tiny.float32.last_logits].flat())).toBeLessThan(1e-4);
      expect(result.tokens[0]).toEqual([tiny.float32.greedy].flat());
    });
    model.module.dispose();
  });
});
