/** Adapters opened with their base: merged for asking, or left beside it. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount, manualSeed, noGrad, randn, scope } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { injectLora, loraLayers, loraParameters } from '../lora/inject.ts';
import { dominoes } from '../tasks/dominoes/dominoes.ts';
import { answer } from './ask.ts';
import {
  type LoadedModel,
  openModelFolder,
  readAuxiliaryFiles,
  saveAdapterFolder,
  saveModelFolder,
} from './loaded-model.ts';

const bundled = join(import.meta.dirname, '../../models/dominoes');
const lora = { rank: 2, alpha: 4, dropout: 0.1, targets: ['q_proj', 'v_proj', 'down_proj'] };
let folder = '';
let adapter = '';
const tensors = liveTensorCount();

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-loaded-'));
  adapter = join(folder, 'adapter');
  mkdirSync(adapter);
  const base = openModelFolder(bundled);
  manualSeed(3);
  injectLora(base.model.module, lora);
  noGrad(() => scope(() => loraParameters(base.model.module).forEach((p) => void p.copy_(randn(p.shape).mul(0.2)))));
  saveAdapterFolder(base, lora, adapter);
  base.model.module.dispose();
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(tensors);
});

/** The answers to three samples, as far as they do not depend on time. */
async function answers(opened: LoadedModel) {
  opened.model.module.eval();
  const found: { text: string; tokens: number[]; picked: number[][] }[] = [];
  for (let i = 0; i < 3; i++) {
    const { images, question, choices } = dominoes.generator!.sample(7, 'test', i);
    for await (const event of answer(opened, { images, question, choices }, { maxNewTokens: 40, trace: true })) {
      if (event.type !== 'end') continue;
      const { text, tokens, picked } = event.answer;
      found.push({ text, tokens: [...tokens], picked: picked.map((step) => [...step]) });
    }
  }
  return found;
}

function withAnswers(path: string, options: Parameters<typeof openModelFolder>[1]) {
  const opened = openModelFolder(path, { dtype: 'float32', ...options });
  return answers(opened).finally(() => opened.model.module.dispose());
}

test('an adapter merged and left apart gives the same answers, and others than its base', async () => {
  const merged = await withAnswers(adapter, {});
  const apart = await withAnswers(adapter, { mergeAdapters: false });
  const base = await withAnswers(bundled, {});
  expect(merged).toHaveLength(3);
  expect(merged).toEqual(apart);
  expect(merged).not.toEqual(base);
});

test('a merged model is a plain one, which can be saved and opened without its adapter', async () => {
  const opened = openModelFolder(adapter, { dtype: 'float32' });
  expect(loraLayers(opened.model.module).size).toBe(0);
  expect(opened.adapter).toMatchObject({ rank: 2, alpha: 4 });
  expect(opened.model.module.parameters().every((parameter) => parameter.requiresGrad)).toBe(true);
  const target = join(folder, 'merged');
  mkdirSync(target);
  saveModelFolder(opened, readAuxiliaryFiles(opened.folder), target);
  opened.model.module.dispose();
  expect(await withAnswers(target, {})).toEqual(await withAnswers(adapter, {}));
});

test('an adapter left apart keeps its layers, ready to be trained further', () => {
  const opened = openModelFolder(adapter, { mergeAdapters: false });
  const trained = [...opened.model.module.namedParameters()].filter(([, parameter]) => parameter.requiresGrad);
  expect(trained.map(([name]) => name)).toEqual([...loraParameters(opened.model.module).keys()]);
  expect(loraLayers(opened.model.module).size).toBeGreaterThan(0);
  opened.model.module.dispose();
});
