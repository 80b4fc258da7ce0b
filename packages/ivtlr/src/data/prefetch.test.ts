import { expect, test } from 'vitest';
import type { ProcessedImage } from '../models/types.ts';
import type { PreparedImage } from '../vision/image-pool.ts';
import { Prefetch, type PrefetchOptions } from './prefetch.ts';
import type { RawImage, Sample } from './sample.ts';

const total = 5;

function setUp(options: PrefetchOptions, broken: { sample?: number; image?: number } = {}) {
  const started: number[] = [];
  const inline: string[] = [];
  const prepared: string[] = [];
  const source = {
    samplesPerEpoch: total,
    sample: async (epoch: number, place: number): Promise<Sample> => {
      const position = epoch * total + place;
      started.push(position);
      if (position === broken.sample) throw new Error(`row ${position} is bad`);
      const image: RawImage = { kind: 'encoded', bytes: new Uint8Array(1), name: `${position}` };
      return { id: `${position}`, images: [image], question: '', choices: [], rationale: '', answer: '', meta: {} };
    },
  };
  const pool = {
    prepare: async (image: RawImage): Promise<PreparedImage> => {
      const { name } = image as { name: string };
      prepared.push(name);
      // Later images are ready first.
      await new Promise((resolve) => setTimeout(resolve, 20 - Number(name)));
      if (name === `${broken.image}`) throw new Error(`image ${name} is broken`);
      return { image: { width: Number(name), height: 1, data: new Uint8Array() }, source: { width: 1, height: 1 } };
    },
  };
  const inputs = {
    finish: ({ image }: PreparedImage) => ({ tokens: image.width }) as ProcessedImage,
    processImage: async (image: RawImage) => {
      inline.push(image.kind);
      return { tokens: -1 } as ProcessedImage;
    },
  };
  return { started, inline, prepared, prefetch: new Prefetch(source, pool, inputs, options) };
}

/** Asks as the trainer does. */
async function take(prefetch: Prefetch, from: number, to: number): Promise<[string, number][]> {
  const taken: [string, number][] = [];
  for (let position = from; position < to; position++) {
    const sample = await prefetch.sample(Math.floor(position / total), position % total);
    taken.push([sample.id, (await prefetch.processImage(sample.images[0]!)).tokens]);
  }
  return taken;
}
const expected = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => [`${from + i}`, from + i] as [string, number]);

test('the same samples and images in the same order, across epochs, whatever the look-ahead', async () => {
  for (const ahead of [0, 1, 3, 7]) {
    const { prefetch, inline } = setUp({ ahead, epochs: 3 });
    expect(await take(prefetch, 0, 15), `${ahead}`).toEqual(expected(0, 15));
    expect(inline).toEqual([]);
    expect(prefetch.waiting).toBe(0);
  }
});

test('each sample is prepared once, at most `ahead` beyond the one asked for, none after the last epoch', async () => {
  const { prefetch, started, prepared } = setUp({ ahead: 3, epochs: 2 });
  await prefetch.sample(0, 0);
  expect(started).toEqual([0, 1, 2, 3]);
  expect(prefetch.waiting).toBe(3);
  await take(prefetch, 1, 10);
  expect(started).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(prepared.length).toBe(10);
});

test('a run that goes on from the middle gets what the first would have got', async () => {
  const { prefetch, started } = setUp({ ahead: 2 });
  expect(await take(prefetch, 7, 10)).toEqual(expected(7, 10));
  expect(started[0]).toBe(7);
  // A jump drops what waits; nothing of it is handed out later.
  expect(await take(prefetch, 2, 5)).toEqual(expected(2, 5));
  expect(prefetch.waiting).toBe(2);
  prefetch.clear();
  expect(prefetch.waiting).toBe(0);
});

test('errors come with their own sample, not before', async () => {
  const { prefetch } = setUp({ ahead: 4 }, { sample: 2, image: 3 });
  expect(await take(prefetch, 0, 2)).toEqual(expected(0, 2));
  await expect(prefetch.sample(0, 2)).rejects.toThrow('row 2 is bad');
  const sample = await prefetch.sample(0, 3);
  await expect(prefetch.processImage(sample.images[0]!)).rejects.toThrow('image 3 is broken');
  expect(await take(prefetch, 4, 6)).toEqual(expected(4, 6));
});

test('images of no sample, and drawn ones, are processed at once', async () => {
  const { prefetch, inline } = setUp({ ahead: 1 });
  const drawn: RawImage = { kind: 'rgb', width: 1, height: 1, data: new Uint8Array(3) };
  expect((await prefetch.processImage(drawn)).tokens).toBe(-1);
  const sample = await prefetch.sample(0, 0);
  expect((await prefetch.processImage(sample.images[0]!)).tokens).toBe(0);
  expect((await prefetch.processImage(sample.images[0]!)).tokens).toBe(-1);
  expect(inline).toEqual(['rgb', 'encoded']);
});
