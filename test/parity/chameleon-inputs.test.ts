/** Images against transformers' Chameleon image processor over Pillow; see README.md for the goldens. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { inflateSync } from 'node:zlib';
import { liveTensorCount } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ChameleonInputs } from '../../packages/ivtlr/src/models/chameleon/inputs.ts';
import type { RawImage } from '../../packages/ivtlr/src/vision/image.ts';
import { readGolden } from './model.ts';

interface Case {
  file: string | null;
  config: string;
  mode: string;
  width: number;
  height: number;
  shape: [number, number, number, number];
  sha256: string;
  strided: string;
  middle: string;
  values: number[];
}

const goldens = readGolden<{ stride: number; centre: number; configs: Record<string, object>; cases: Case[] }>(
  'chameleon-inputs.json',
);

/** Lossy formats may be decoded by another release of their library, which may round differently. */
const LOSSY = /\.jpg$|lossy\.webp$/;

let live = 0;
beforeAll(() => {
  live = liveTensorCount();
});
afterAll(() => expect(liveTensorCount()).toBe(live));

/** The generator's formula. */
function drawn(width: number, height: number): RawImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      data[to++] = x * 7 + y * 3 + ((x * y) >> 9);
      data[to++] = Math.floor((x * x) / 4001) + y;
      data[to++] = ((x >> 5) * 31) ^ ((y >> 4) * 17);
    }
  }
  return { kind: 'rgb', width, height, data };
}

function open({ file, width, height }: Case): RawImage {
  if (file === null) return drawn(width, height);
  return { kind: 'encoded', bytes: readFileSync(new URL(`./goldens/${file}`, import.meta.url)), name: file };
}

const unpack = (text: string) => new Uint8Array(inflateSync(Buffer.from(text, 'base64')));

function largestDifference(got: Uint8Array, wanted: Uint8Array): number {
  expect(got.length).toBe(wanted.length);
  return got.reduce((largest, value, index) => Math.max(largest, Math.abs(value - wanted[index]!)), 0);
}

it.each(goldens.cases)('$file $width x $height ($mode), $config', async (golden) => {
  const inputs = new ChameleonInputs(goldens.configs[golden.config]);
  const { image, source } = await inputs.prepare(open(golden));
  expect(source).toMatchObject({ width: golden.width, height: golden.height });
  const [, height, width] = golden.shape;
  expect([image.width, image.height]).toEqual([width, height]);
  const levels = new Uint8Array(3 * height * width);
  for (let c = 0; c < 3; c++)
    for (let i = 0; i < height * width; i++) levels[c * height * width + i] = image.data[i * 3 + c]!;
  const tolerance = LOSSY.test(golden.file ?? '') ? 1 : 0;
  const strided = levels.filter((_, index) => index % goldens.stride === 0);
  expect(largestDifference(strided, unpack(golden.strided))).toBeLessThanOrEqual(tolerance);
  const { centre } = goldens;
  const [top, left] = [(height - centre) >> 1, (width - centre) >> 1];
  const middle = levels.filter((_, index) => {
    const [x, y] = [(index % width) - left, (Math.floor(index / width) % height) - top];
    return x >= 0 && x < centre && y >= 0 && y < centre;
  });
  expect(largestDifference(middle, unpack(golden.middle))).toBeLessThanOrEqual(tolerance);
  if (tolerance === 0) expect(createHash('sha256').update(levels).digest('hex')).toBe(golden.sha256);

  const { pixels, tokens } = inputs.finish({ image, source });
  expect(pixels.shape).toEqual([1, 3, height, width]);
  expect(tokens).toBe((height / 16) * (width / 16));
  const values = pixels.data();
  golden.values.forEach((value, index) => {
    const level = Math.abs((values[index * 20 * goldens.stride] as number) - value);
    expect(level).toBeLessThan(tolerance === 0 ? 1e-6 : 0.04);
  });
  pixels.dispose();
});

it('has every kind of picture', () => {
  const modes = new Set(goldens.cases.map(({ mode }) => mode));
  for (const mode of ['RGB', 'RGBA', 'L', 'LA', 'P', 'CMYK', '1', 'I;16']) expect(modes).toContain(mode);
  const sizes = goldens.cases.map(({ width, height }) => `${width}x${height}`);
  for (const size of ['1x1', '3000x2', '2x3000', '512x512', '4000x3000']) expect(sizes).toContain(size);
});
