import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { SeenImage } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { placeOf } from '../../../../packages/ivtlr/src/vision/token-views.ts';
import { cellName, highest, rectOf, type Size, tokenAt } from './cells.ts';

function cellOf(token: number, image: SeenImage, size: Size) {
  const { view, row, column } = placeOf(image, token);
  return rectOf(row, column, view, image, size);
}

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
  expect(cellName(5, { tokenGrid: [2, 4] })).toBe('row 2, column 2');
});

it('knows the tokens of tiles, and those of the whole picture behind them', () => {
  const tile = [2, 2] as const;
  const views = [
    { name: 'tiles', grid: [2, 4] as const, start: 0, tile },
    { name: 'whole', grid: tile, start: 8, tile },
  ];
  const image = {
    tokenGrid: [2, 4] as const,
    views,
    width: 80,
    height: 40,
    crop: { x: 0, y: 0, width: 80, height: 40 },
  };
  const size = { width: 80, height: 40 };
  // The second tile begins right of the first one.
  expect(cellOf(4, image, size)).toEqual({ left: 40, top: 0, width: 20, height: 20 });
  expect(tokenAt(50, 10, image, size)).toBe(4);
  expect(cellOf(11, image, size)).toEqual({ left: 40, top: 20, width: 40, height: 20 });
  expect([cellName(6, image), cellName(11, image)]).toEqual(['tiles: row 2, column 3', 'whole: row 2, column 2']);
  for (let token = 0; token < 8; token++) {
    const { left, top } = cellOf(token, image, size);
    expect(tokenAt(left + 1, top + 1, image, size)).toBe(token);
  }
});
