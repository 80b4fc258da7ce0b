import sharp from 'sharp';
import { expect, test } from 'vitest';
import { drawTokenGrids } from './token-grid-image.ts';

test('cells are equal parts, lines stand between them and nowhere else', async () => {
  const image = { width: 84, height: 56, data: new Uint8Array(84 * 56 * 3).fill(100) };
  const png = await drawTokenGrids([{ images: [image], layout: { tokenGrid: [2, 3] } }]);
  const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
  expect([info.width, info.height, info.channels]).toEqual([168, 112, 3]);
  const at = (x: number, y: number) => [...data.subarray((y * 168 + x) * 3, (y * 168 + x) * 3 + 3)];
  const plain = [100, 100, 100];
  for (const x of [56, 112]) {
    expect(at(x, 10)).toEqual([10, 125, 140]);
    expect(at(x - 1, 10)).toEqual([255, 255, 255]);
    expect(at(x + 1, 10)).toEqual(plain);
    expect(at(x - 2, 10)).toEqual(plain);
  }
  expect(at(10, 56)).toEqual([10, 125, 140]);
  expect(at(10, 57)).toEqual(plain);
  expect([at(0, 0), at(167, 111), at(167, 0)]).toEqual([plain, plain, plain]);
});
