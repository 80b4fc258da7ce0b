/** Images against Pillow and Hugging Face's Qwen2-VL image processor; see README.md for the goldens. */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { liveTensorCount, scope } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OFFICIAL_INPUTS, Qwen2VlInputs } from '../../packages/ivtlr/src/models/qwen2-vl/inputs.ts';
import { smartResize } from '../../packages/ivtlr/src/models/qwen2-vl/smart-resize.ts';
import { decodeImage } from '../../packages/ivtlr/src/vision/decode.ts';
import type { RgbImage } from '../../packages/ivtlr/src/vision/image.ts';
import { type ResizeFilter, resize } from '../../packages/ivtlr/src/vision/resize.ts';

interface Pixels {
  grid: number[];
  shape: number[];
  first: number[];
  sum: number;
  abs_sum: number;
  weighted: number;
  step: number;
  samples: number[];
}

interface Case {
  file: string;
  mode: string;
  width: number;
  height: number;
  decoded: string;
  on_white?: string;
  resized: {
    filter: ResizeFilter;
    width: number;
    height: number;
    /** By Pillow 13.0 and by 11.1. */
    file: string;
    pillow_11: string;
    /** Pillow 12.3 gives what 11.1 does. */
    pillow_12_as_11: boolean;
  }[];
  small: Pixels;
  official: Pixels;
  official_pillow_11: Pixels;
  smart: Pixels | { error: string };
}

type Size = [number, number];

interface Goldens {
  default_pixels: Size;
  hub_pixels: Size;
  smart_resize: { size: Size; default: Size | null; hub: Size | null }[];
  cases: Case[];
}

const folder = new URL('./goldens/preprocess/', import.meta.url);
const goldens: Goldens = JSON.parse(readFileSync(new URL('preprocess.json', folder), 'utf8'));
const unpack = (file: string) => new Uint8Array(gunzipSync(readFileSync(new URL(file, folder))));
const encoded = (file: string) =>
  ({ kind: 'encoded', bytes: readFileSync(new URL(file, folder)), name: file }) as const;

/** Lossy formats may be decoded by another release of their library, which may round differently. */
const LOSSY = /\.jpg$|lossy\.webp$|\.avif$/;

function largestDifference(got: Uint8Array, wanted: Uint8Array): number {
  expect(got.length).toBe(wanted.length);
  return got.reduce((largest, value, index) => Math.max(largest, Math.abs(value - wanted[index]!)), 0);
}

async function expectPixels(inputs: Qwen2VlInputs, image: RgbImage, wanted: Pixels): Promise<void> {
  const prepared = await inputs.prepare({ kind: 'rgb', ...image });
  const { grid, shape, values } = scope(() => {
    const processed = inputs.finish(prepared);
    return { grid: processed.grid, shape: processed.pixels.shape, values: processed.pixels.data() as Float32Array };
  });
  expect(grid).toEqual(wanted.grid);
  expect(shape).toEqual(wanted.shape);
  wanted.first.forEach((value, index) => {
    expect(values[index]).toBeCloseTo(value, 5);
  });
  wanted.samples.forEach((value, index) => {
    expect(values[index * wanted.step]).toBeCloseTo(value, 5);
  });
  const sums = { sum: 0, absolute: 0, weighted: 0 };
  values.forEach((value, index) => {
    sums.sum += value;
    sums.absolute += Math.abs(value);
    sums.weighted += (value * ((index % 97) + 1)) / 97;
  });
  const tolerance = 1e-6 * wanted.abs_sum;
  expect(Math.abs(sums.sum - wanted.sum)).toBeLessThan(tolerance);
  expect(Math.abs(sums.absolute - wanted.abs_sum)).toBeLessThan(tolerance);
  expect(Math.abs(sums.weighted - wanted.weighted)).toBeLessThan(tolerance);
}

let live = 0;
beforeAll(() => {
  live = liveTensorCount();
});
afterAll(() => expect(liveTensorCount()).toBe(live));

describe.each(goldens.cases)('$file ($mode)', (golden) => {
  const { width, height } = golden;
  const decoded: RgbImage = { width, height, data: unpack(golden.decoded) };
  const resizedTo = (wanted: number) =>
    golden.resized.find((entry) => entry.filter === 'bicubic' && entry.width === wanted)!;

  it('decodes as Pillow does', async () => {
    const image = await decodeImage(encoded(golden.file));
    expect(image).toMatchObject({ width, height });
    expect(largestDifference(image.data, decoded.data)).toBeLessThanOrEqual(LOSSY.test(golden.file) ? 2 : 0);
    const onWhite = await decodeImage(encoded(golden.file), { alpha: 'white' });
    const wanted = golden.on_white ? unpack(golden.on_white) : image.data;
    expect(largestDifference(onWhite.data, wanted)).toBe(0);
  });

  it('resizes as Pillow 11 and 13 do', () => {
    for (const { filter, width: toWidth, height: toHeight, file, pillow_11 } of golden.resized) {
      for (const [rule, wanted] of [
        ['pillow-13', file],
        ['pillow-11', pillow_11],
      ] as const) {
        const image = resize(decoded, toWidth, toHeight, { filter, rule });
        // Lanczos weights use sin(), whose last bit may depend on the machine.
        const tolerance = filter === 'bicubic' ? 0 : 1;
        expect(largestDifference(image.data, unpack(wanted)), `${rule} ${wanted}`).toBeLessThanOrEqual(tolerance);
      }
    }
  });

  it("gives Hugging Face's pixel values", async () => {
    const small = { width: 84, height: 56, data: unpack(resizedTo(84).file) };
    await expectPixels(new Qwen2VlInputs(), small, golden.small);
    await expectPixels(new Qwen2VlInputs({}, OFFICIAL_INPUTS), decoded, golden.official_pillow_11);
    await expectPixels(new Qwen2VlInputs({}, { ...OFFICIAL_INPUTS, resize: 'pillow-13' }), decoded, golden.official);
    const { smart } = golden;
    const inputs = new Qwen2VlInputs();
    if ('error' in smart)
      await expect(inputs.prepare({ kind: 'rgb', ...decoded })).rejects.toThrow(/at most 200 times/);
    else await expectPixels(inputs, decoded, smart);
  });
});

it('has pictures that the releases of Pillow resize differently', () => {
  const differing = goldens.cases.flatMap(({ file, resized }) =>
    resized.filter((entry) => entry.file !== entry.pillow_11).map(() => file),
  );
  expect(new Set(differing).size).toBeGreaterThan(5);
  const unlike11 = goldens.cases.filter(({ resized }) => resized.some((entry) => !entry.pillow_12_as_11));
  expect(unlike11.map(({ file, width, height }) => [file, height > 100 * width])).toEqual([['images/thin.png', true]]);
});

it.each(goldens.smart_resize)('smart resize of $size', ({ size: [height, width], default: wanted, hub }) => {
  for (const [[minPixels, maxPixels], expected] of [
    [goldens.default_pixels, wanted],
    [goldens.hub_pixels, hub],
  ] as const) {
    const run = () => smartResize(height, width, { factor: 28, minPixels, maxPixels });
    if (expected === null) expect(run).toThrow(/too narrow/);
    else expect([run().height, run().width]).toEqual(expected);
  }
});
