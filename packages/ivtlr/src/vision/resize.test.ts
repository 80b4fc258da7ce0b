import { describe, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import type { RgbImage } from './image.ts';
import { resize } from './resize.ts';

/** Deterministic hard edges: the case where the order of passes and every rounding show. */
function checker(width: number, height: number): RgbImage {
  const data = new Uint8Array(width * height * 3).map((_, index) => ((index * index + (index >> 3)) % 7 < 3 ? 255 : 0));
  return { width, height, data };
}

const grey = (values: number[], width: number): RgbImage => ({
  width,
  height: values.length / width,
  data: new Uint8Array(values.flatMap((value) => [value, value, value])),
});

const firstChannel = (image: RgbImage) => [...image.data].filter((_, index) => index % 3 === 0);

/** Pillow 13.0: a row of 8 grey values resized to 3 and to 11. */
const PILLOW_ROW = {
  bicubic3: [110, 112, 114],
  bicubic11: [0, 164, 209, 27, 67, 161, 168, 10, 199, 166, 0],
  lanczos3: [106, 117, 113],
  lanczos11: [0, 168, 224, 23, 49, 184, 158, 8, 205, 173, 0],
};

describe('resize', () => {
  it('returns the same pixels for the same size', () => {
    const image = checker(5, 4);
    expect(resize(image, 5, 4)).toBe(image);
  });

  it('keeps a flat colour flat, both ways, with both filters', () => {
    const image: RgbImage = { width: 9, height: 7, data: new Uint8Array(9 * 7 * 3).fill(173) };
    for (const filter of ['bicubic', 'lanczos'] as const) {
      for (const [width, height] of [
        [3, 2],
        [28, 28],
        [1, 30],
      ] as const) {
        const out = resize(image, width, height, { filter });
        expect(out).toMatchObject({ width, height });
        expect(new Set(out.data)).toEqual(new Set([173]));
      }
    }
  });

  it('equals Pillow on a row (numbers from Image.resize)', () => {
    const row = grey([0, 255, 30, 90, 200, 10, 255, 0], 8);
    expect(firstChannel(resize(row, 3, 1))).toEqual(PILLOW_ROW.bicubic3);
    expect(firstChannel(resize(row, 3, 1, { filter: 'lanczos' }))).toEqual(PILLOW_ROW.lanczos3);
    expect(firstChannel(resize(row, 11, 1))).toEqual(PILLOW_ROW.bicubic11);
    expect(firstChannel(resize(row, 11, 1, { filter: 'lanczos' }))).toEqual(PILLOW_ROW.lanczos11);
  });

  it('starts with the axis Pillow starts with', () => {
    const tall = checker(20, 40);
    const ours = resize(tall, 17, 9);
    expect(ours.data).toEqual(resize(resize(tall, 20, 9), 17, 9).data);
    const widthFirst = resize(tall, 17, 9, { rule: 'pillow-11' });
    expect(widthFirst.data).toEqual(resize(resize(tall, 17, 40), 17, 9).data);
    expect(widthFirst.data).not.toEqual(ours.data);
    const wide = checker(40, 20);
    expect(resize(wide, 9, 17).data).toEqual(resize(wide, 9, 17, { rule: 'pillow-11' }).data);
  });

  it('makes a region as it is in the whole, in either order of passes', () => {
    for (const [width, height] of [
      [20, 40],
      [40, 20],
      [31, 7],
    ] as const) {
      for (const filter of ['bicubic', 'lanczos'] as const) {
        for (const [toWidth, toHeight] of [
          [17, 9],
          [width, 50],
          [64, height],
          [width, height],
        ] as const) {
          const image = checker(width, height);
          const whole = resize(image, toWidth, toHeight, { filter });
          const region = { left: 3, top: 2, width: toWidth - 5, height: toHeight - 4 };
          const part = resize(image, toWidth, toHeight, { filter, region });
          expect(part).toMatchObject({ width: region.width, height: region.height });
          const wanted: number[] = [];
          for (let y = 2; y < toHeight - 2; y++)
            wanted.push(...whole.data.subarray((y * toWidth + 3) * 3, (y * toWidth + toWidth - 2) * 3));
          expect([...part.data]).toEqual(wanted);
        }
      }
    }
  });

  it('refuses sizes that are not whole and positive', () => {
    for (const size of [0, -3, 2.5, Number.NaN]) {
      expect(() => resize(checker(4, 4), size, 4)).toThrow(UserError);
      expect(() => resize(checker(4, 4), 4, size)).toThrow(UserError);
    }
  });
});
