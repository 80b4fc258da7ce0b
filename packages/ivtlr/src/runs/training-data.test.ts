/** Needs the compiled package, which `npm test` builds first. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openWithoutWeights } from '../engine/folder-rendering.ts';
import type { ImageInputs } from '../models/types.ts';
import { dominoes } from '../tasks/dominoes/dominoes.ts';
import { makeDominoes } from '../tasks/dominoes/make.ts';
import { writeDominoesTokenizer } from '../tasks/dominoes/vocabulary.ts';
import { openTrainingData, type TrainingDataOptions } from './training-data.ts';

const rows = 7;
let folder = '';
let inputs: ImageInputs;
const tensors = liveTensorCount();
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-training-data-'));
  await makeDominoes({ rows, out: folder, seed: 1 });
  const model = join(folder, 'model');
  mkdirSync(model);
  writeDominoesTokenizer(model);
  writeFileSync(join(model, 'config.json'), '{"model_type":"qwen2_vl"}');
  inputs = openWithoutWeights(model, { profile: 'consistent' }).inputs;
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(tensors);
});

/** Ids and image bytes from a position to the end, as a trainer asks for them. */
async function seen(change: Partial<TrainingDataOptions>, from = 0): Promise<string[]> {
  const data = await openTrainingData(folder, dominoes, inputs, {
    seed: 5,
    epochs: 3,
    threads: 2,
    ahead: 4,
    ...change,
  });
  const found: string[] = [];
  try {
    for (let position = from; position < 3 * data.samplesPerEpoch; position++) {
      const sample = await data.sample(Math.floor(position / data.samplesPerEpoch), position % data.samplesPerEpoch);
      const { pixels } = await data.processImage(sample.images[0]!);
      found.push(`${sample.id} ${Buffer.from(pixels.bytes()).toString('base64').slice(5000, 5040)}`);
      pixels.dispose();
    }
  } finally {
    await data.close();
  }
  return found;
}

test('the same with and without threads, and when it goes on from the middle', async () => {
  const all = await seen({ threads: 0 });
  expect(all.length).toBe(21);
  expect(new Set(all).size).toBe(rows);
  expect([...all.slice(0, 7)].sort()).toEqual([...all.slice(7, 14)].sort());
  expect(all.slice(0, 7)).not.toEqual(all.slice(7, 14));
  expect(await seen({})).toEqual(all);
  expect(await seen({ threads: 1, ahead: 30 })).toEqual(all);
  expect(await seen({}, 10)).toEqual(all.slice(10));
  expect(await seen({ seed: 6 })).not.toEqual(all);
});

test('fewer samples than there are', async () => {
  expect((await seen({ samplesPerEpoch: 4 })).length).toBe(12);
});

test('bad rows are errors or left out', async () => {
  const lines = join(folder, 'bad');
  mkdirSync(lines);
  writeFileSync(
    join(lines, 'train.jsonl'),
    '{"id":3,"question":"q","choices":[],"answer":"A","rationale":"","domain":"","topic":"","image":"x"}',
  );
  const options = { seed: 0, epochs: 1, threads: 1, ahead: 1 };
  await expect(openTrainingData(lines, dominoes, inputs, options)).rejects.toThrow(
    /line 1, column image: there is no image/,
  );
  const said: string[] = [];
  const skipping = { ...options, onBad: ({ message }: { message: string }) => said.push(message) };
  await expect(openTrainingData(lines, dominoes, inputs, skipping)).rejects.toThrow(/no row has an image/);
  expect(said.length).toBe(1);
});
