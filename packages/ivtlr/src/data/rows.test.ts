import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { writeParquet } from './parquet.ts';
import { type BadRows, imageField } from './row.ts';
import { readRows } from './rows.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-rows-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function parquet(name: string, images: unknown[]): Promise<string> {
  const path = join(folder, name);
  async function* rows() {
    for (const image of images) yield { image };
  }
  await writeParquet(path, [{ name: 'image', kind: 'image' }], rows(), 2);
  return path;
}

test('files of both kinds follow each other, and rows count on', async () => {
  const table = await parquet('a.parquet', [null, null, null]);
  const lines = join(folder, 'b.jsonl');
  writeFileSync(lines, '{"image":null}\nbroken\n{"image":null}\n');
  const bad: BadRows[] = [];
  const places: [number, string][] = [];
  for await (const { index, place } of readRows([table, lines, table], ['image'], (rows) => bad.push(rows))) {
    places.push([index, place]);
  }
  expect(places.map(([index]) => index)).toEqual([0, 1, 2, 3, 5, 6, 7, 8]);
  expect(places[2]![1]).toBe(`${table} row group 1, row 2`);
  expect(places[4]![1]).toBe(`${lines} line 3`);
  expect(bad.map(({ place }) => place)).toEqual([`${lines} line 2`]);
});

test('images that a Parquet file only names are read from beside it', async () => {
  mkdirSync(join(folder, 'images'));
  writeFileSync(join(folder, 'images/p.png'), 'bytes');
  const table = await parquet('named.parquet', [
    { bytes: null, path: 'images/p.png' },
    { bytes: null, path: 'images/none.png' },
    { bytes: new Uint8Array([7]), path: 'images/p.png' },
  ]);
  const read = [];
  for await (const { row, place } of readRows([table], ['image'])) {
    read.push(() => imageField(row, 'image', place) as { bytes: Uint8Array });
  }
  expect(Buffer.from(read[0]!().bytes).toString()).toBe('bytes');
  expect(read[1]).toThrow(/named\.parquet row group 0, row 1, column image: the image is only named/);
  expect([...read[2]!().bytes]).toEqual([7]);
});
