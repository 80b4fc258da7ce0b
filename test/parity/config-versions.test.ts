/** config.json files as five versions of transformers write them: the same numbers as transformers reads, and weights that load under each. */
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
import { type GoldenCase, makeBatch, readGolden, relativeError, seededImages } from './model.ts';
import { common, type NewerQwen, newerQwen, type Resolved } from './resolved-config.ts';

interface Older extends Resolved {
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

test('five versions, and the short files of the older ones', () => {
  expect(golden.versions).toEqual(['4.45.2', '4.49.0', '4.51.3', '4.57.6', '5.17.0']);
  for (const version of ['4.45.2', '4.49.0']) {
    const { config } = golden.cases.find((one) => one.version === version && one.name === 'qwen2-vl 2b')!;
    const keys = ['hidden_size', 'in_chans', 'model_type', 'spatial_patch_size'];
    expect(Object.keys(config.vision_config as object).sort()).toEqual(keys);
  }
  const versionsOf = (type: string) => [...new Set(family(type).map(({ version }) => version))];
  expect(versionsOf('qwen2_5_vl')).toEqual(golden.versions.slice(1));
  expect(versionsOf('qwen3_vl')).toEqual(golden.versions.slice(3));
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

describe('stored weights under the file of each version', () => {
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
