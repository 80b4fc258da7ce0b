/** Needs the compiled package, which `npm test` builds first. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { compiledModule } from '../compiled-module.ts';
import { UserError } from '../errors.ts';
import type { RawImage } from './image.ts';
import { ImagePool } from './image-pool.ts';

/** Prepares nothing: the first byte says what happens. */
const family = `
export async function prepareImage(image, rules) {
  const [order] = image.bytes;
  if (order === 1) { const error = new Error('plain'); throw error; }
  if (order === 2) process.exit(3);
  if (order === 3) await new Promise((resolve) => setTimeout(resolve, 200));
  if (order === 4) await new Promise(() => setTimeout(() => {}, 1e6));
  const data = new Uint8Array([order, rules.add]);
  return { image: { width: 1, height: 1, data }, source: { width: 7, height: 8 } };
}`;
let folder = '';
let module: URL;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-pool-'));
  writeFileSync(join(folder, 'family.mjs'), family);
  module = pathToFileURL(join(folder, 'family.mjs'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const image = (...bytes: number[]): RawImage => ({
  kind: 'encoded',
  bytes: Uint8Array.from(bytes),
  name: `p${bytes[0]}`,
});
async function withPool(threads: number, use: (pool: ImagePool) => Promise<void>): Promise<void> {
  const pool = new ImagePool({ module, rules: { add: 5 } }, threads);
  try {
    await use(pool);
  } finally {
    await pool.close();
  }
}

test('images come back prepared, whichever is ready first', async () => {
  await withPool(2, async (pool) => {
    const orders = [3, 10, 11, 12, 3, 13];
    const prepared = await Promise.all(orders.map((order) => pool.prepare(image(order))));
    expect(prepared.map(({ image }) => [...image.data])).toEqual(orders.map((order) => [order, 5]));
    expect(prepared[0]!.source).toEqual({ width: 7, height: 8 });
  });
});

test('an error belongs to its image and keeps its kind', async () => {
  const compiled = compiledModule('../models/qwen2-vl/prepare', import.meta.url);
  const rules = { decode: {}, resize: {}, limits: { factor: 28, minPixels: 784, maxPixels: 1e6 } };
  const pool = new ImagePool({ module: compiled, rules }, 1);
  await expect(pool.prepare(image(9))).rejects.toThrow(
    new UserError('p9: this is not an image; JPEG, PNG, WebP, GIF, TIFF and AVIF are read'),
  );
  await expect(pool.prepare(image(9))).rejects.toBeInstanceOf(UserError);
  await pool.close();
  await withPool(1, async (pool) => {
    const failing = pool.prepare(image(1));
    await expect(failing).rejects.toThrow('plain');
    await expect(failing).rejects.not.toBeInstanceOf(UserError);
    expect([...(await pool.prepare(image(20))).image.data]).toEqual([20, 5]);
  });
});

test('a thread that dies names the image it died of; the others are done by a new one', async () => {
  await withPool(1, async (pool) => {
    const results = await Promise.allSettled([21, 2, 22, 23].map((order) => pool.prepare(image(order))));
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'fulfilled']);
    expect((results[1] as PromiseRejectedResult).reason.message).toMatch(/^p2: the thread that prepared it stopped/);
  });
});

test('closing rejects what waits and takes no more', async () => {
  const pool = new ImagePool({ module, rules: { add: 0 } }, 1);
  const waiting = pool.prepare(image(4));
  const rejected = expect(waiting).rejects.toThrow(/was closed/);
  await pool.close();
  await rejected;
  await expect(pool.prepare(image(9))).rejects.toThrow(/is closed/);
});

test('compiled modules, from source and from compiled callers', () => {
  expect(compiledModule('./x', 'file:///src/a/packages/p/src/vision/pool.ts').href).toBe(
    'file:///src/a/packages/p/dist/vision/x.js',
  );
  expect(compiledModule('../x', 'file:///src/a/dist/vision/pool.js').href).toBe('file:///src/a/dist/x.js');
});
