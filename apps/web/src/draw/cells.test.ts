import fc from 'fast-check';
import { expect, it } from 'vitest';
import { cellName, cellOf, highest, tokenAt } from './cells.ts';

it('finds the cell of a token under a crop, and the token of a point', () => {
  const image = { tokenGrid: [2, 4], width: 200, height: 100, crop: { x: 50, y: 0, width: 100, height: 100 } } as const;
  const size = { width: 400, height: 200 };
  expect(cellOf(0, image, size)).toEqual({ left: 100, top: 0, width: 50, height: 100 });
  expect(cellOf(7, image, size)).toEqual({ left: 250, top: 100, width: 50, height: 100 });
  expect(tokenAt(99, 10, image, size)).toBeNull();
  expect(tokenAt(301, 10, image, size)).toBeNull();
  expect(tokenAt(299, 199, image, size)).toBe(7);
});

it('leads from every cell back to its token', () => {
  const part = fc.integer({ min: 1, max: 500 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 20 }), part, part, (rows, columns, x, y) => {
      const crop = { x, y, width: 300, height: 200 };
      const image = { tokenGrid: [rows, columns] as const, width: 900, height: 800, crop };
      const size = { width: 450, height: 400 };
      for (let token = 0; token < rows * columns; token++) {
        const { left, top, width, height } = cellOf(token, image, size);
        expect(tokenAt(left + width / 2, top + height / 2, image, size)).toBe(token);
      }
    }),
    { numRuns: 30 },
  );
});

it('orders scores, earlier tokens first among equals', () => {
  expect(highest([0.1, 0.4, 0.1, 0.2], 3)).toEqual([
    { token: 1, score: 0.4 },
    { token: 3, score: 0.2 },
    { token: 0, score: 0.1 },
  ]);
  expect(cellName(5, [2, 4])).toBe('row 2, column 2');
});
