import { describe, expect, it } from 'vitest';
import { UserError } from '../../errors.ts';
import { smartResize } from './smart-resize.ts';

const limits = { factor: 28, minPixels: 56 * 56, maxPixels: 14 * 14 * 4 * 1280 };

/** height, width -> height, width as Hugging Face's smart_resize gives them. */
const EXPECTED = [
  [280, 280, 280, 280],
  [42, 126, 56, 112], // 1.5 -> 2 and 4.5 -> 4: halves go to the even neighbour
  [70, 210, 56, 224],
  [1, 1, 56, 56],
  [5, 900, 28, 756],
  [480, 640, 476, 644],
  [3000, 2000, 1204, 812],
  [20, 3999, 28, 4004],
] as const;

describe('smartResize', () => {
  it.each(EXPECTED)('%i x %i', (height, width, wantedHeight, wantedWidth) => {
    expect(smartResize(height, width, limits)).toEqual({ height: wantedHeight, width: wantedWidth });
  });

  it('refuses images thinner than 1 to 200', () => {
    expect(() => smartResize(10, 2001, limits)).toThrow(UserError);
    expect(smartResize(10, 2000, limits).width).toBeGreaterThan(0);
  });
});
