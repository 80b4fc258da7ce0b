/** Pictures against Pillow and Hugging Face's Qwen2-VL image processor; see README.md for the goldens. */
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
  resized: { filter: ResizeFilter; width: number; height: number; file: string }[];
  small: Pixels;
  official: Pixels;
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
const LOSSY = /\.jpg$|lossy\.webp$/;

function largestDifference(got: Uint8Array, wanted: Uint8Array): number {
  expect(got.length).toBe(wanted.length);
  return got.reduce((largest, value, index) => Math.max(largest, Math.abs(value - wanted[index]!)), 0);
}

function expectPixels(inputs: Qwen2VlInputs, image: RgbImage, wanted: Pixels): void {
  const { grid, shape, values } = scope(() => {
    const processed = inputs.processRgb(image);
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

  it('resizes as Pillow does', () => {
    for (const { filter, width: toWidth, height: toHeight, file } of golden.resized) {
      const image = resize(decoded, toWidth, toHeight, { filter });
      // Lanczos weights use sin(), whose last bit may depend on the machine.
      expect(largestDifference(image.data, unpack(file))).toBeLessThanOrEqual(filter === 'bicubic' ? 0 : 1);
    }
  });

  it("gives Hugging Face's pixel values", () => {
    const small = { width: 84, height: 56, data: unpack(resizedTo(84).file) };
    expectPixels(new Qwen2VlInputs(), small, golden.small);
    expectPixels(new Qwen2VlInputs({}, OFFICIAL_INPUTS), decoded, golden.official);
    const { smart } = golden;
    const inputs = new Qwen2VlInputs();
    if ('error' in smart) expect(() => inputs.processRgb(decoded)).toThrow(/at most 200 times/);
    else expectPixels(inputs, decoded, smart);
  });
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
