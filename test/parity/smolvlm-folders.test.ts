/** Folders of SmolVLM against transformers and PEFT: a sharded checkpoint, a LoRA adapter read and written. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AdamW, liveTensorCount, openSafetensors, scope } from '@ivtlr/torch';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { generateAll } from '../../packages/ivtlr/src/latent/generate.ts';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/src/latent/options.ts';
import { loadAdapter, saveAdapter } from '../../packages/ivtlr/src/lora/adapter-folder.ts';
import { loadModel } from '../../packages/ivtlr/src/models/registry.ts';
import type { VisionLanguageModel } from '../../packages/ivtlr/src/models/types.ts';
import { trainingLoss } from '../../packages/ivtlr/src/train/loss.ts';
import { makeBatch, readGolden, relativeError, type Stats } from './model.ts';
import { type SmolVlmCase, seededSmolVlm, seededSmolVlmImages } from './smolvlm-model.ts';

interface Sharded extends SmolVlmCase {
  folder: string;
  shards: number;
  input_ids: number[];
  features: Stats;
  last_logits: number[];
  greedy: number[][];
}

interface Lora extends SmolVlmCase {
  adapter: string;
  input_ids: number[];
  labels: number[];
  plain: number[];
  adapted: number[];
  training: { lr: number; weight_decay: number; losses: number[] };
}

const golden = readGolden<{ sharded: Sharded; lora: Lora }>('smolvlm-folders.json');
const goldens = fileURLToPath(new URL('goldens', import.meta.url));

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => {
  expect(liveTensorCount()).toBe(baseline);
});

/** Logits at the end of a row. */
function lastLogits(model: VisionLanguageModel, { input_ids, ids, ...rest }: SmolVlmCase & { input_ids: number[] }) {
  const batch = makeBatch([input_ids], [input_ids.map(() => 1)], seededSmolVlmImages(rest), ids);
  const options = { ...LATENT_DEFAULTS, maxNewTokens: 12, eosIds: [], firstLogits: true };
  return generateAll(model, batch, options);
}

test('a sharded, tied bfloat16 folder', () => {
  const { folder, shards, features, last_logits, greedy } = golden.sharded;
  const files = fs.readdirSync(path.join(goldens, folder)).filter((name) => name.endsWith('.safetensors'));
  expect([files.length, shards > 1]).toEqual([shards, true]);
  const stored = loadModel(path.join(goldens, folder));
  expect(stored.dtype).toBe('bfloat16');
  stored.module.dispose();
  const model = loadModel(path.join(goldens, folder), { dtype: 'float32' });
  scope(() => {
    const [own] = model.encodeImages(seededSmolVlmImages(golden.sharded));
    expect(own!.shape).toEqual(features.shape);
    expect(relativeError(own!.toNumbers().slice(0, features.first.length), features.first)).toBeLessThan(1e-4);
    const { tokens, firstLogits } = lastLogits(model, golden.sharded);
    expect(relativeError(firstLogits[0]!, last_logits)).toBeLessThan(1e-4);
    expect(tokens).toEqual(greedy);
  });
  model.module.dispose();
});

test("PEFT's adapter: logits, five steps of training, and written again as it was", () => {
  const { lora } = golden;
  const { ids, input_ids, labels } = lora;
  using model = seededSmolVlm(lora);
  scope(() => expect(relativeError(lastLogits(model, lora).firstLogits[0]!, lora.plain)).toBeLessThan(1e-4));
  const { config, layers } = loadAdapter(model, path.join(goldens, lora.adapter), { dropout: 0 });
  expect(layers.size).toBe(14);
  scope(() => expect(relativeError(lastLogits(model, lora).firstLogits[0]!, lora.adapted)).toBeLessThan(1e-4));

  const folder = fs.mkdtempSync(path.join(tmpdir(), 'ivtlr-smolvlm-lora-'));
  const { rank, alpha, targets } = config;
  saveAdapter(model, folder, { rank, alpha, dropout: 0.05, targets }, { baseModel: 'base', style: model.pathStyle });
  const name = 'adapter_model.safetensors';
  scope(() => {
    using ours = openSafetensors(path.join(folder, name));
    using theirs = openSafetensors(path.join(goldens, lora.adapter, name));
    expect([...ours.names()].sort()).toEqual([...theirs.names()].sort());
    for (const key of theirs.names()) expect(ours.read(key).toNumbers()).toEqual(theirs.read(key).toNumbers());
  });
  const written = JSON.parse(fs.readFileSync(path.join(folder, 'adapter_config.json'), 'utf8'));
  expect(written.exclude_modules.every((layer: string) => layer.includes('vision_model'))).toBe(true);
  fs.rmSync(folder, { recursive: true });

  const trained = new Map([...model.namedParameters()].filter(([, parameter]) => parameter.requiresGrad));
  expect(trained.size).toBe(28);
  using optimizer = new AdamW(trained, { lr: lora.training.lr, weightDecay: lora.training.weight_decay });
  const losses = lora.training.losses.map(() =>
    scope(() => {
      const batch = makeBatch([input_ids], [input_ids.map(() => 1)], seededSmolVlmImages(lora), ids, [labels]);
      const { loss } = trainingLoss(model, batch, {
        ...LATENT_DEFAULTS,
        latentGradient: 'detached',
        pickSupervision: 0,
      });
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      return loss.item();
    }),
  );
  expect(relativeError(losses, lora.training.losses)).toBeLessThan(1e-4);
});
