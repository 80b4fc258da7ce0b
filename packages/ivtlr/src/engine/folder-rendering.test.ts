/** Images prepared in threads against images processed at once. Needs the compiled package, which `npm test` builds first. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount } from '@ivtlr/torch';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Prefetch } from '../data/prefetch.ts';
import type { Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { familyOf } from '../models/registry.ts';
import { writeDominoesTokenizer } from '../tasks/dominoes/vocabulary.ts';
import type { RawImage } from '../vision/image.ts';
import { ImagePool } from '../vision/image-pool.ts';
import { openWithoutWeights } from './folder-rendering.ts';
import { openModelFolder } from './loaded-model.ts';

let folder = '';
const tensors = liveTensorCount();
beforeAll(() => {
  folder = join(mkdtempSync(join(tmpdir(), 'ivtlr-families-')), 'model');
  mkdirSync(folder);
  writeDominoesTokenizer(folder);
  writeFileSync(join(folder, 'config.json'), '{"model_type":"qwen2_vl"}');
});
afterAll(() => {
  rmSync(join(folder, '..'), { recursive: true, force: true });
  expect(liveTensorCount()).toBe(tensors);
});

async function images(): Promise<RawImage[]> {
  const made: RawImage[] = [];
  for (let i = 0; i < 6; i++) {
    const [width, height, channels] = [50 + 37 * i, 200 - 20 * i, i % 2 ? 4 : 3] as const;
    const raw = Buffer.from(
      Array.from({ length: width * height * channels }, (_, at) => (at * (7 + i) + (at >> 9)) & 255),
    );
    const image = sharp(raw, { raw: { width, height, channels } });
    made.push({
      kind: 'encoded',
      name: `image ${i}`,
      bytes: await (i % 2 ? image.png() : image.jpeg()).toBuffer(),
    });
  }
  made.push({ kind: 'encoded', name: 'spoilt', bytes: Uint8Array.from([255, 216, 255, 1]) });
  return made;
}

test.each([
  ['qwen2_vl', 'official'],
  ['qwen2_vl', 'consistent'],
  ['chameleon', 'official'],
] as const)('threads give the same tensors, bit by bit (%s, %s)', async (modelType, profile) => {
  const inputs = familyOf({ model_type: modelType }, 'test').inputs(folder, { profile });
  const all = await images();
  const source = {
    samplesPerEpoch: all.length,
    sample: async (_: number, place: number) => ({ id: `${place}`, image: all[place]! }) as Sample,
  };
  const pool = new ImagePool(inputs.preparation, 2);
  const ahead = new Prefetch(source, pool, inputs, { ahead: 3, epochs: 2 });
  try {
    for (let epoch = 0; epoch < 2; epoch++) {
      for (const [place, image] of all.entries()) {
        const sample = await ahead.sample(epoch, place);
        if (place === all.length - 1) {
          await expect(ahead.processImage(sample.image)).rejects.toThrow(/^spoilt: the JPEG image cannot be decoded/);
          continue;
        }
        const threaded = await ahead.processImage(sample.image);
        const direct = await inputs.processImage(image);
        expect({ ...threaded, pixels: null }).toEqual({ ...direct, pixels: null });
        expect(Buffer.compare(threaded.pixels.bytes(), direct.pixels.bytes()), `${epoch} ${place}`).toBe(0);
        threaded.pixels.dispose();
        direct.pixels.dispose();
      }
    }
  } finally {
    await pool.close();
  }
});

const KNOWN = 'known are qwen2_vl, qwen2_5_vl, chameleon, smolvlm, idefics3';
test.each([
  ['"llama"', `model_type is "llama", ${KNOWN}`],
  // Names that every JavaScript object has.
  ['"constructor"', `model_type is "constructor", ${KNOWN}`],
  ['"__proto__"', `model_type is "__proto__", ${KNOWN}`],
  ['["chameleon"]', `model_type is ["chameleon"], ${KNOWN}`],
])('a folder of another family is named: %s', (modelType, message) => {
  const other = join(folder, '..', 'other');
  mkdirSync(other, { recursive: true });
  writeFileSync(join(other, 'config.json'), `{"model_type":${modelType}}`);
  for (const open of [() => openWithoutWeights(other, { profile: 'official' }), () => openModelFolder(other)])
    expect(open).toThrow(new UserError(`${join(other, 'config.json')}: ${message}`));
});

test('a folder that is not there, or says nothing of its family, is named', () => {
  expect(() => openWithoutWeights(join(folder, 'none'), { profile: 'official' })).toThrow(/there is no model folder/);
  const silent = join(folder, '..', 'silent');
  mkdirSync(silent);
  for (const config of ['{}', 'null', '[]']) {
    writeFileSync(join(silent, 'config.json'), config);
    expect(() => openModelFolder(silent)).toThrow(
      new UserError(`${join(silent, 'config.json')}: model_type is missing, ${KNOWN}`),
    );
  }
});
