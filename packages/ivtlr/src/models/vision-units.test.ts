/** The towers of all families in units: together they give what the tower gives at once, and nothing stays behind. */
import fs from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { inferenceMode, liveTensorCount, scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { writeTinyChameleon } from '../../../../test/tiny-chameleon.ts';
import { QWEN2_VL, QWEN3_PREPROCESSOR, QWEN3_VL, QWEN25_VL, writeTinyQwen } from '../../../../test/tiny-qwen.ts';
import { writeTinySmolVlm } from '../../../../test/tiny-smolvlm.ts';
import { openModelFolder } from '../engine/loaded-model.ts';
import { ImagesAhead } from '../latent/images-ahead.ts';
import type { RawImage } from '../vision/image.ts';

setNumThreads(1);
let parent: string;
beforeAll(() => {
  parent = fs.mkdtempSync(join(os.tmpdir(), 'ivtlr-units-'));
});
afterAll(() => fs.rmSync(parent, { recursive: true }));

const data = Uint8Array.from({ length: 96 * 128 * 3 }, (_, i) => (i * i * 31 + i) % 251);
const image: RawImage = { kind: 'rgb', width: 128, height: 96, data };

/** Families, and units that the picture has at least. */
test.each([
  ['qwen2-vl', (folder: string) => writeTinyQwen(folder, QWEN2_VL), 4],
  ['qwen2.5-vl', (folder: string) => writeTinyQwen(folder, QWEN25_VL), 4],
  ['qwen3-vl', (folder: string) => writeTinyQwen(folder, QWEN3_VL, { preprocessor: QWEN3_PREPROCESSOR }), 4],
  ['smolvlm', (folder: string) => writeTinySmolVlm(folder), 5 * 2],
  ['chameleon', (folder: string) => writeTinyChameleon(folder), 6],
])('%s', async (name, write, least) => {
  const folder = join(parent, name);
  write(folder);
  const before = liveTensorCount();
  const { model, processImage } = openModelFolder(folder);
  const picture = await processImage(image);
  const [whole] = scope(() => inferenceMode(() => model.encodeImages([picture]).map((one) => one.toNumbers())));
  const ready = liveTensorCount();
  const units: number[] = [];
  const each = model.encodeInUnits(picture);
  for (let unit = each.next(); ; unit = each.next()) {
    if (unit.done) {
      unit.value.dispose();
      break;
    }
    units.push(unit.value);
  }
  const ahead = new ImagesAhead(model);
  // The smallest piece there is, so that each is one unit; those that are no work go with the one before them.
  let pieces = 1;
  while (!ahead.advance(picture, Number.MIN_VALUE)) pieces++;
  expect(pieces).toBeGreaterThanOrEqual(least);
  expect(pieces).toBeLessThanOrEqual(units.length + 1);
  // No unit is most of the work, which a row that writes would wait for.
  const work = units.reduce((sum, unit) => sum + unit, 0);
  expect(work).toBeGreaterThan(0);
  expect(Math.max(...units)).toBeLessThan(0.75 * work);
  const encoded = ahead.get(picture)!;
  expect(encoded.shape).toEqual([picture.tokens, model.inputSize]);
  const error = encoded.toNumbers().reduce((most, value, i) => Math.max(most, Math.abs(value - whole![i]!)), 0);
  expect(error).toBeLessThan(1e-5);
  ahead.forget(picture);
  // One that is given up half-way leaves nothing either.
  ahead.advance(picture, Number.MIN_VALUE);
  ahead.dispose();
  expect(liveTensorCount()).toBeLessThanOrEqual(ready);
  picture.pixels.dispose();
  model.module.dispose();
  expect(liveTensorCount()).toBe(before);
});
