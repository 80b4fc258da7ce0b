import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { readJsonLines } from './json-lines.ts';
import { type BadRows, imageField, type PlacedRow } from './row.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-lines-'));
  writeFileSync(join(folder, 'a.png'), 'picture');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function collect(text: string | Uint8Array, columns = ['id', 'image'], onBad?: (bad: BadRows) => void) {
  const path = join(folder, 'x.jsonl');
  writeFileSync(path, text);
  const rows: PlacedRow[] = [];
  for await (const row of readJsonLines(path, columns, onBad)) rows.push(row);
  return { path, rows };
}

test('rows, blank lines, a byte order mark, no newline at the end', async () => {
  const { path, rows } = await collect('\ufeff{"id":"ü","image":null,"more":1}\r\n\n  \n{"id":"b"}');
  expect(rows).toEqual([
    { row: { id: 'ü', image: null }, index: 0, place: `${path} line 1` },
    { row: { id: 'b', image: null }, index: 1, place: `${path} line 4` },
  ]);
});

test('a line longer than a chunk stays whole', async () => {
  const long = 'é'.repeat(1_300_000);
  const { rows } = await collect(`{"id":"${long}","image":null}\n{"id":"b","image":null}\n`);
  expect(rows.map(({ row }) => row.id === long || row.id)).toEqual([true, 'b']);
});

test('images: a path beside the file, an object with path, base64 bytes', async () => {
  const lines = ['"a.png"', '{"path":"a.png"}', '{"bytes":"cGljdHVyZQ==","path":"z"}', '""', '"none.png"', '3'];
  const { path, rows } = await collect(lines.map((image) => `{"id":"","image":${image}}`).join('\n'));
  const read = (i: number) => imageField(rows[i]!.row, 'image', rows[i]!.place);
  for (const i of [0, 1, 2]) {
    expect(Buffer.from((read(i) as { bytes: Uint8Array }).bytes).toString()).toBe('picture');
  }
  expect(read(0)).toMatchObject({ name: `${join(folder, 'a.png')} (${path} line 1)` });
  expect(read(3)).toBeNull();
  expect(() => read(4)).toThrow(
    new UserError(`${path} line 5, column image: there is no image ${join(folder, 'none.png')}`),
  );
  expect(() => read(5)).toThrow(/line 6, column image: should be a struct/);
});

test('lines that are no rows are named, or reported and counted', async () => {
  const text = '{"id":"a","image":null}\n{"id":\n[1]\n{"id":"d"}\n';
  await expect(collect(text)).rejects.toThrow(/x\.jsonl line 2 is not JSON in UTF-8/);
  await expect(collect(Uint8Array.from([0x7b, 0xff, 0x7d]))).rejects.toThrow(/line 1 is not JSON in UTF-8/);
  const bad: BadRows[] = [];
  const { path, rows } = await collect(text, ['id', 'image'], (rows) => bad.push(rows));
  expect(bad.map(({ place }) => place)).toEqual([`${path} line 2`, `${path} line 3`]);
  expect(rows.map(({ index }) => index)).toEqual([0, 3]);
});

test('missing columns and files', async () => {
  await expect(collect('{"id":"a"}', ['id', 'answer'], () => {})).rejects.toThrow(
    /line 1 has no column answer; its columns are id/,
  );
  const missing = readJsonLines(join(folder, 'none.jsonl'), []);
  await expect(missing.next()).rejects.toThrow(new UserError(`data file not found: ${join(folder, 'none.jsonl')}`));
});
