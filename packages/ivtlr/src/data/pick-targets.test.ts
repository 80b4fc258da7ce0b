import { expect, test } from 'vitest';
import { pickTargetTokens } from './pick-targets.ts';

const source = { width: 112, height: 112 };
const sample = { pickTargets: [[6], [], [0, 15]], pickGrid: [4, 4] as const };

test('the same grid gives the same numbers, and no grid means tokens already', () => {
  expect(pickTargetTokens(sample, [{ tokenGrid: [4, 4], source }])).toEqual(sample.pickTargets);
  expect(pickTargetTokens({ pickTargets: [[9]] }, [{ tokenGrid: [32, 32], source }])).toEqual([[9]]);
  expect(pickTargetTokens({}, [{ tokenGrid: [32, 32], source }])).toBeUndefined();
});

test('a finer grid has several tokens a cell, those whose middle lies in it', () => {
  expect(pickTargetTokens(sample, [{ tokenGrid: [8, 8], source }])).toEqual([
    [20, 21, 28, 29],
    [],
    [0, 1, 8, 9, 54, 55, 62, 63],
  ]);
  // Ten tokens over four cells: middles at .05, .15, .25, ..; cell 1 has .25 to .45.
  const ten = pickTargetTokens({ pickTargets: [[1]], pickGrid: [4, 4] }, [{ tokenGrid: [10, 10], source }])!;
  expect(ten[0]!.filter((token) => token < 10)).toEqual([2, 3, 4]);
  expect(ten[0]!.length).toBe(6);
});

test('tokens that show the middle of the image only', () => {
  const wide = { width: 200, height: 100, shown: { left: 50, top: 0, width: 100, height: 100 } };
  const cells = { pickTargets: [[0], [1], [3]], pickGrid: [1, 4] as const };
  expect(pickTargetTokens(cells, [{ tokenGrid: [2, 2], source: wide }])).toEqual([[], [0, 2], []]);
  const bordered = { width: 10, height: 10, shown: { left: -10, top: 0, width: 30, height: 10 } };
  const whole = { pickTargets: [[0]], pickGrid: [1, 1] as const };
  expect(pickTargetTokens(whole, [{ tokenGrid: [1, 3], source: bordered }])).toEqual([[1]]);
});

test('tokens of the tiles and of the whole, and of a second image behind those of the first', () => {
  const tile = [2, 2] as const;
  const views = [
    { name: 'tiles', grid: [2, 4] as const, start: 0, tile },
    { name: 'whole', grid: tile, start: 8, tile },
  ];
  const cut = { tokenGrid: [2, 4] as const, views, source: { width: 80, height: 40 } };
  // Cells of the first image are 0 to 3, those of the second 4 to 7.
  const cells = { pickTargets: [[1], [2, 5], [7]], pickGrid: [2, 2] as const };
  expect(pickTargetTokens(cells, [cut, cut])).toEqual([
    [4, 5, 9],
    [2, 3, 10, 16, 17, 21],
    [18, 19, 23],
  ]);
});
