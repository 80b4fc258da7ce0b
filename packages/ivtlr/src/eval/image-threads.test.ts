/** Needs the compiled package, which `npm test` builds first. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ImagesAhead } from '../data/images-ahead.ts';
import type { RawImage } from '../data/sample.ts';
import { type LoadedModel, openModelFolder } from '../engine/loaded-model.ts';
import { dominoes } from '../tasks/dominoes/dominoes.ts';
import { makeDominoes } from '../tasks/dominoes/make.ts';
import { streamSamples } from '../tasks/read-samples.ts';
import { ImagePool } from '../vision/image-pool.ts';
import { type AnsweredSample, evaluate } from './runner.ts';

const tensors = liveTensorCount();
let folder = '';
let opened: LoadedModel;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-images-'));
  await makeDominoes({ rows: 11, out: folder, split: 'test' });
  opened = openModelFolder(join(import.meta.dirname, '../../models/dominoes'));
  opened.model.module.eval();
});
afterAll(() => {
  opened.model.module.dispose();
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(tensors);
});

async function answers(imageThreads: number) {
  const found: [number, string][] = [];
  const result = await evaluate(opened, dominoes, streamSamples(folder, dominoes, { split: 'test' }), {
    ...{ name: 'x', batch: 3, maxNewTokens: 30, imageThreads },
    onAnswer: ({ index, answered }: AnsweredSample) => found.push([index, answered.generated]),
  });
  return { found, correct: result.correctStrict };
}

test('the same answers in the same order with and without threads', async () => {
  const plain = await answers(0);
  expect(plain.found.map(([index]) => index)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  expect(plain.correct).toBe(11);
  expect(await answers(2)).toEqual(plain);
});

test('images are begun before they are asked for, and a broken one is an error only where it is taken', async () => {
  const started: string[] = [];
  const image = (name: string, bytes = new Uint8Array(3)): RawImage => ({ kind: 'encoded', name, bytes });
  async function* items() {
    for (const name of ['a', 'b', 'c', 'd']) {
      started.push(name);
      yield { sample: { images: [image(name)] } };
    }
  }
  const threads = new ImagePool(opened.inputs.preparation, 1);
  const images = new ImagesAhead(opened.inputs, threads);
  const followed = images.follow(items(), 2);
  const first = (await followed.next()).value!;
  expect(started).toEqual(['a', 'b', 'c']);
  await expect(images.processImage(first.sample.images[0]!)).rejects.toThrow(/^a: /);
  const rest = [];
  for await (const { sample } of followed) rest.push((sample.images[0] as { name: string }).name);
  expect(rest).toEqual(['b', 'c', 'd']);
  await threads.close();
});

test('without threads nothing is read ahead', async () => {
  const started: number[] = [];
  async function* items() {
    for (const n of [1, 2]) {
      started.push(n);
      yield { sample: { images: [{ kind: 'rgb', width: 1, height: 1, data: new Uint8Array(3) } as RawImage] } };
    }
  }
  const images = new ImagesAhead(opened.inputs, null);
  await images.follow(items(), 5).next();
  expect(started).toEqual([1]);
});
