import sharp from 'sharp';
import { expect, it } from 'vitest';
import { type DotTable, drawDotTable } from './dot-table.ts';

const columns = [
  { title: 'full', group: 0 },
  { title: 'text zeroed', group: 2 },
];

/** Where the darkest pixels of a column's mean lie, from 0 (left end of the drawing) to 1. */
async function darkest(table: DotTable): Promise<number> {
  const { data, info } = await sharp(drawDotTable(table)).greyscale().raw().toBuffer({ resolveWithObject: true });
  // The row's line of means: the middle of the first row, a little below.
  const row = 84 + 25 + 6;
  const dark = Array.from({ length: info.width }, (_, x) => x).filter((x) => data[row * info.width + x]! < 60);
  return dark.reduce((sum, x) => sum + x, 0) / dark.length;
}

it('puts the mean where its value is', async () => {
  const at = (mean: number) =>
    darkest({
      title: 't',
      columns: columns.slice(0, 1),
      rows: [{ name: 'recipe', note: '', cells: [{ mean, interval: [mean, mean], values: [] }] }],
    });
  const [none, half, all] = [await at(0), await at(0.5), await at(1)];
  expect(half - none).toBeCloseTo(55, 0);
  expect(all - half).toBeCloseTo(55, 0);
});

it('leaves cells without a value empty, and draws any number of rows', async () => {
  const rows = ['a', 'a much longer name of a recipe'].map((name) => ({
    name,
    note: '3.0 steps',
    cells: [null, null],
  }));
  const one = await sharp(drawDotTable({ title: 't', columns, rows: rows.slice(0, 1) })).metadata();
  const two = await sharp(drawDotTable({ title: 't', columns, rows })).metadata();
  expect(two.height! - one.height!).toBe(50);
  expect(two.width!).toBeGreaterThan(one.width!);
  await expect(darkest({ title: 't', columns, rows })).resolves.toBeNaN();
});
