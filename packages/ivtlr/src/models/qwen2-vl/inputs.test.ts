import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount, scope } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../errors.ts';
import type { RgbImage } from '../../vision/image.ts';
import { resize } from '../../vision/resize.ts';
import { OFFICIAL_INPUTS, OFFICIAL_SIZE, type Qwen2VlInputOptions, Qwen2VlInputs } from './inputs.ts';

const plain = { image_mean: [0, 0, 0], image_std: [1, 1, 1], rescale_factor: 1 };

function image(width: number, height: number): RgbImage {
  return {
    width,
    height,
    data: new Uint8Array(width * height * 3).map((_, index) => (index * 31 + (index >> 7)) % 256),
  };
}

let live = 0;
beforeAll(() => {
  live = liveTensorCount();
});
afterAll(() => expect(liveTensorCount()).toBe(live));

describe('Qwen2VlInputs', () => {
  it('orders patches by 2x2 groups and each row by channel, frame, y, x', async () => {
    const rgb = image(84, 56);
    const inputs = new Qwen2VlInputs(plain);
    const prepared = await inputs.prepare({ kind: 'rgb', ...rgb });
    const values = scope(() => {
      const processed = inputs.finish(prepared);
      expect(processed).toMatchObject({
        grid: [1, 4, 6],
        tokens: 6,
        tokenGrid: [2, 3],
        source: { width: 84, height: 56 },
      });
      expect(processed.pixels.shape).toEqual([24, 1176]);
      return processed.pixels.toNumbers();
    });
    let row = 0;
    for (const tokenTop of [0, 28])
      for (const tokenLeft of [0, 28, 56])
        for (const dy of [0, 14])
          for (const dx of [0, 14]) {
            for (const [channel, frame, y, x] of [
              [0, 0, 0, 0],
              [0, 1, 0, 0],
              [1, 0, 13, 5],
              [2, 1, 7, 13],
            ] as const) {
              const at = row * 1176 + channel * 392 + frame * 196 + y * 14 + x;
              const from = ((tokenTop + dy + y) * 84 + tokenLeft + dx + x) * 3 + channel;
              expect(values[at]).toBe(rgb.data[from]);
            }
            row++;
          }
  });

  it('normalises with the config, Hugging Face defaults where it is silent', async () => {
    const grey = { width: 56, height: 56, data: new Uint8Array(56 * 56 * 3).fill(255) };
    const corner = async (inputs: Qwen2VlInputs) => {
      const prepared = await inputs.prepare({ kind: 'rgb', ...grey });
      return scope(() => inputs.finish(prepared).pixels.data()[0] as number);
    };
    expect(await corner(new Qwen2VlInputs())).toBeCloseTo((1 - 0.48145466) / 0.26862954, 5);
    expect(await corner(new Qwen2VlInputs({ ...plain, rescale_factor: 1 / 255, image_mean: [0.5, 0, 0] }))).toBeCloseTo(
      0.5,
      6,
    );
  });

  it('first makes every image 280x280 when asked, as the official code does', async () => {
    const inputs = new Qwen2VlInputs(plain, { fixedSize: OFFICIAL_SIZE });
    const rgb = image(333, 100);
    const prepared = await inputs.prepare({ kind: 'rgb', ...rgb });
    scope(() => {
      const processed = inputs.finish(prepared);
      expect(processed).toMatchObject({ tokens: 100, tokenGrid: [10, 10], source: { width: 333, height: 100 } });
      const small = resize(rgb, 280, 280);
      expect(processed.pixels.data()[0]).toBe(small.data[0]);
      expect(processed.pixels.select(0, 3).data()[0]).toBe(small.data[(14 * 280 + 14) * 3]);
    });
    expect(() => new Qwen2VlInputs({}, { fixedSize: { width: 280, height: 100 } })).toThrow(/multiples of 28/);
  });

  it('resizes by the rule it is given, in the official profile by that of Pillow 11', async () => {
    const tall = image(100, 420);
    const at280 = async (options: Qwen2VlInputOptions) => {
      const inputs = new Qwen2VlInputs(plain, options);
      return [inputs.resize, (await inputs.prepare({ kind: 'rgb', ...tall })).image.data];
    };
    const rules = ['pillow-11', 'pillow-13'] as const;
    const [old, today] = rules.map((rule) => resize(tall, 280, 280, { rule }).data);
    expect(old).not.toEqual(today);
    expect(await at280(OFFICIAL_INPUTS)).toEqual(['pillow-11', old]);
    expect(await at280({ fixedSize: OFFICIAL_SIZE })).toEqual(['pillow-13', today]);
    expect(await at280({ ...OFFICIAL_INPUTS, resize: 'pillow-13' })).toEqual(['pillow-13', today]);
  });

  it('reads size limits in both spellings', async () => {
    const size = { shortest_edge: 3136, longest_edge: 50_176 };
    const sides = async (config: unknown, side: number) => {
      const { width, height } = (await new Qwen2VlInputs(config).prepare({ kind: 'rgb', ...image(side, side) })).image;
      return [width, height];
    };
    expect(await sides({ size }, 500)).toEqual([224, 224]);
    expect(await sides({ size, max_pixels: 12_544 }, 500)).toEqual([112, 112]);
    expect(await sides({ max_pixels: 3136 }, 500)).toEqual([56, 56]);
    expect(await sides({ min_pixels: 112 * 112 }, 28)).toEqual([112, 112]);
  });

  it('reads a folder, and refuses what it cannot follow by file name', () => {
    const folder = mkdtempSync(join(tmpdir(), 'inputs-'));
    const write = (config: unknown) => writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(config));
    try {
      expect(Qwen2VlInputs.fromFolder(folder).patchSize).toBe(14);
      write({ patch_size: 16, min_pixels: 4096 });
      expect(Qwen2VlInputs.fromFolder(folder).factor).toBe(32);
      write({ patch_size: -1 });
      expect(() => Qwen2VlInputs.fromFolder(folder)).toThrow(/preprocessor_config\.json is not usable.*patch_size/s);
      write({ resample: 2 });
      expect(() => Qwen2VlInputs.fromFolder(folder)).toThrow(/resample 2 is not supported/);
      write({ do_normalize: false });
      expect(() => Qwen2VlInputs.fromFolder(folder)).toThrow(UserError);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('names the image that is too narrow', async () => {
    const inputs = new Qwen2VlInputs();
    const { default: sharp } = await import('sharp');
    const bytes = await sharp({ create: { width: 900, height: 2, channels: 3, background: 'red' } })
      .png()
      .toBuffer();
    await expect(inputs.processImage({ kind: 'encoded', bytes, name: 'line.png' })).rejects.toThrow(
      /^line\.png: .*900x2/,
    );
  });
});
