import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount, scope } from '@ivtlr/torch';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../errors.ts';
import type { RgbImage } from '../../vision/image.ts';
import { resize } from '../../vision/resize.ts';
import { ChameleonInputs } from './inputs.ts';
import { cropImage } from './prepare.ts';

function image(width: number, height: number): RgbImage {
  const data = new Uint8Array(width * height * 3).map((_, index) => (index * 31 + (index >> 7)) % 256);
  return { width, height, data };
}

/** What is left of an image made in whole and cut afterwards. */
function cut(image: RgbImage, left: number, top: number, width: number, height: number): Uint8Array {
  const rows: number[] = [];
  for (let y = top; y < top + height; y++)
    rows.push(...image.data.subarray((y * image.width + left) * 3, (y * image.width + left + width) * 3));
  return Uint8Array.from(rows);
}

const tiny = { size: { shortest_edge: 32 }, crop_size: { width: 32, height: 32 } };

let live = 0;
beforeAll(() => {
  live = liveTensorCount();
});
afterAll(() => expect(liveTensorCount()).toBe(live));

describe('ChameleonInputs', () => {
  it('keeps the middle of the image with its shorter side at the size, the longer one rounded down', () => {
    const { rules } = new ChameleonInputs(tiny);
    const wide = image(75, 40); // 32 * 75 / 40 = 60
    const made = cropImage(wide, rules);
    expect(made.image).toMatchObject({ width: 32, height: 32 });
    expect(made.image.data).toEqual(cut(resize(wide, 60, 32, { filter: 'lanczos' }), 14, 0, 32, 32));
    expect(made.source).toEqual({
      ...{ width: 75, height: 40 },
      shown: { left: 17.5, top: 0, width: 40, height: 40 },
    });
    const tall = image(20, 39); // 32 * 39 / 20 = 62.4
    expect(cropImage(tall, rules).image.data).toEqual(cut(resize(tall, 32, 62, { filter: 'lanczos' }), 0, 15, 32, 32));
  });

  it('resizes by the rule it is given', () => {
    const tall = image(40, 90); // to 32 x 72: the height shrinks by 18, the width by 8
    const [old, today] = (['pillow-11', 'pillow-13'] as const).map((rule) => {
      const inputs = new ChameleonInputs(tiny, {}, { resize: rule });
      expect(inputs.resize).toBe(rule);
      const { data } = cropImage(tall, inputs.rules).image;
      expect(data).toEqual(cut(resize(tall, 32, 72, { filter: 'lanczos', rule }), 0, 20, 32, 32));
      return data;
    });
    expect(old).not.toEqual(today);
  });

  it('adds black where the image is smaller than the crop', () => {
    const { rules } = new ChameleonInputs({ size: { width: 10, height: 40 }, crop_size: 32 });
    const { image, source } = cropImage({ width: 10, height: 40, data: new Uint8Array(1200).fill(200) }, rules);
    const row = [...image.data.subarray(0, 96)];
    expect(row).toEqual([...new Array(33).fill(0), ...new Array(30).fill(200), ...new Array(33).fill(0)]);
    expect(new Set(image.data.subarray(31 * 96))).toEqual(new Set([0, 200]));
    expect(source.shown).toEqual({ left: -11, top: 4, width: 32, height: 32 });
  });

  it('makes channels first, rescaled and centred, one token for every 16 pixels', async () => {
    const white = { width: 512, height: 512, data: new Uint8Array(512 * 512 * 3).fill(255) };
    white.data[2] = 100;
    const inputs = new ChameleonInputs();
    const prepared = await inputs.prepare({ kind: 'rgb', ...white });
    scope(() => {
      const { pixels, ...rest } = inputs.finish(prepared);
      expect(rest).toMatchObject({ grid: [1, 32, 32], tokens: 1024, tokenGrid: [32, 32] });
      expect([pixels.shape, pixels.dtype]).toEqual([[1, 3, 512, 512], 'float32']);
      const values = pixels.data();
      expect(values[0]).toBeCloseTo(255 * 0.0078 - 1, 6);
      expect(values[2 * 512 * 512]).toBeCloseTo(100 * 0.0078 - 1, 6);
    });
    const small = new ChameleonInputs(tiny, { vq_config: { channel_multiplier: [1, 2, 2] } });
    const square = await small.prepare({ kind: 'rgb', ...image(50, 50) });
    scope(() => expect(small.finish(square)).toMatchObject({ tokens: 64, tokenGrid: [8, 8] }));
  });

  it('does not make the whole of a line', async () => {
    const line = await sharp({ create: { width: 30_000, height: 2, channels: 3, background: { r: 9, g: 80, b: 200 } } })
      .png()
      .toBuffer();
    const { image, source } = await new ChameleonInputs().prepare({ kind: 'encoded', bytes: line, name: 'line' });
    expect(image).toMatchObject({ width: 512, height: 512 });
    expect([...image.data.subarray(0, 3)]).toEqual([9, 80, 200]);
    expect(source.shown!.width).toBeCloseTo(2, 9);
  });

  it('reads a folder, and refuses what it cannot follow by file name', () => {
    const folder = mkdtempSync(join(tmpdir(), 'inputs-'));
    const write = (name: string, content: unknown) => writeFileSync(join(folder, name), JSON.stringify(content));
    const failure = (config: unknown) => {
      write('preprocessor_config.json', config);
      expect(() => ChameleonInputs.fromFolder(folder)).toThrow(UserError);
      return () => ChameleonInputs.fromFolder(folder);
    };
    try {
      write('config.json', { model_type: 'chameleon' });
      expect(ChameleonInputs.fromFolder(folder)).toMatchObject({
        factor: 16,
        rules: { filter: 'lanczos', size: { shortestEdge: 512 }, crop: { width: 512, height: 512 } },
      });
      write('preprocessor_config.json', { ...tiny, resample: 3 });
      expect(ChameleonInputs.fromFolder(folder).rules.filter).toBe('bicubic');
      expect(failure({ crop_size: 500 })).toThrow(
        /preprocessor_config\.json: crop_size 500x500 must be multiples of 16/,
      );
      expect(failure({ resample: 2 })).toThrow(/resample 2 is not supported/);
      expect(failure({ do_center_crop: false })).toThrow(/preprocessor_config\.json is not usable.*do_center_crop/s);
      expect(failure({ size: { shortest_edge: 512, longest_edge: 600 } })).toThrow(/size/);
      expect(failure({ image_mean: [1] })).toThrow(/image_mean/);
      write('config.json', { vq_config: { channel_multiplier: 'x' } });
      expect(failure({})).toThrow(/config\.json is not usable.*channel_multiplier/s);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('names the image that cannot be read', async () => {
    const image = { kind: 'encoded', bytes: Uint8Array.from([255, 216, 255, 1]), name: 'spoilt.jpg' } as const;
    await expect(new ChameleonInputs().processImage(image)).rejects.toThrow(/^spoilt\.jpg: /);
  });
});
