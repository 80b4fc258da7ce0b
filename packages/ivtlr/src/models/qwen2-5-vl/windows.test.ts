import { expect, test } from 'vitest';
import { windowOrder } from './windows.ts';

test('whole windows first, then those cut at the right, below, and in the corner', () => {
  expect(windowOrder(3, 3, 2)).toEqual({
    order: [0, 1, 3, 4, 2, 5, 6, 7, 8],
    groups: [
      { windows: 1, size: 4 },
      { windows: 1, size: 2 },
      { windows: 1, size: 2 },
      { windows: 1, size: 1 },
    ],
  });
});

test.each([
  [8, 8, 4, 1],
  [1, 1, 4, 1],
  [4, 9, 4, 2],
  [9, 4, 4, 2],
  [10, 10, 4, 4],
  [5, 7, 1, 1],
])('%i x %i tokens in windows of %i', (rows, columns, side, sizes) => {
  const { order, groups } = windowOrder(rows, columns, side);
  expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: rows * columns }, (_, i) => i));
  expect(groups).toHaveLength(sizes);
  let at = 0;
  for (const { windows, size } of groups)
    for (let i = 0; i < windows; i++, at += size) {
      const tokens = order.slice(at, at + size);
      const places = tokens.map((token) =>
        [Math.floor(token / columns / side), Math.floor((token % columns) / side)].join(),
      );
      expect(new Set(places).size).toBe(1);
    }
  expect(at).toBe(order.length);
});
