import { liveTensorCount } from '@ivtlr/torch';
import { expect, it } from 'vitest';
import { normalize } from './normalize.ts';

it('puts channels first, rescales, centres and scales', () => {
  const before = liveTensorCount();
  const image = { width: 2, height: 1, data: new Uint8Array([0, 51, 102, 255, 204, 153]) };
  const pixels = normalize(image, { rescale: 1 / 255, mean: [0, 0.5, 0.25], std: [1, 0.5, 0.25] });
  expect(pixels.shape).toEqual([3, 1, 2]);
  expect(pixels.dtype).toBe('float32');
  [0, 1, -0.6, 0.6, 0.6, 1.4].forEach((wanted, index) => {
    expect(pixels.toNumbers()[index]).toBeCloseTo(wanted, 6);
  });
  pixels.dispose();
  expect(liveTensorCount()).toBe(before);
});
