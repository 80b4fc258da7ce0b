import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { readJsonRows } from './json-rows.ts';
import type { BadRows, PlacedRow } from './row.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-lines-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function collect(text: string | Uint8Array, columns = ['id', 'image'], onBad?: (bad: BadRows) => void) {
  const path = join(folder, 'x.jsonl');
  writeFileSync(path, text);
  const rows: PlacedRow[] = [];
  for await (const row of readJsonRows(path, columns, onBad)) rows.push(row);
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
  const missing = readJsonRows(join(folder, 'none.jsonl'), []);
  await expect(missing.next()).rejects.toThrow(new UserError(`data file not found: ${join(folder, 'none.jsonl')}`));
});

test('a list of rows in a JSON file', async () => {
  const path = join(folder, 'rows.json');
  writeFileSync(path, '[{"id":"a"},3,{"id":"c"}]');
  const bad: BadRows[] = [];
  const rows: PlacedRow[] = [];
  for await (const row of readJsonRows(path, ['id'], (row) => bad.push(row))) rows.push(row);
  expect(rows.map(({ row, index, place }) => [row.id, index, place])).toEqual([
    ['a', 0, `${path} row 0`],
    ['c', 2, `${path} row 2`],
  ]);
  expect(bad).toEqual([
    { place: `${path} row 1`, message: `${path} row 1 should be a JSON object with a row's columns`, rows: 1 },
  ]);
  writeFileSync(path, '{"id":"a"}');
  await expect(readJsonRows(path, ['id']).next()).rejects.toThrow(`${path} should hold a list of rows`);
});

test('a list is read value by value, wherever chunks end, and what is broken is placed', async () => {
  const path = join(folder, 'long.json');
  const texts = ['a,]}"\\\\', 'é'.repeat(1_300_000), '[{\n', ''];
  const read = async (text: string, onBad?: (bad: BadRows) => void) => {
    writeFileSync(path, text);
    const rows: PlacedRow[] = [];
    for await (const row of readJsonRows(path, ['id'], onBad)) rows.push(row);
    return rows;
  };
  const rows = texts.map((id) => ({ id, other: [[1, { a: ']' }], {}] }));
  expect((await read(`\ufeff ${JSON.stringify(rows, null, 1)}\n`)).map(({ row }) => row.id)).toEqual(texts);
  expect(await read('[]')).toEqual([]);
  const places: string[] = [];
  const good = await read('[{"id":1},{"id":},,{"id":4},]', ({ place }) => places.push(place));
  expect(good.map(({ row, index }) => [row.id, index])).toEqual([
    [1, 0],
    [4, 3],
  ]);
  expect(places).toEqual([1, 2, 4].map((row) => `${path} row ${row}`));
  await expect(read('[{"id":1},{"id":2')).rejects.toThrow(
    `${path} should hold a list of rows: [{..}, {..}], but ends in row 1`,
  );
  await expect(read(' ')).rejects.toThrow('but ends before it begins');
  await expect(read('[{"id":1}] x')).rejects.toThrow(`${path} should hold a list of rows and no more`);
});

test('a row that would fill the memory is refused: too long, or of too many lists', async () => {
  const deep = `{"id":${'['.repeat(3_000_000)}${']'.repeat(3_000_000)}}`;
  const wide = `{"id":[${'{},'.repeat(3_000_000)}{}]}`;
  const few = `{"id":${'['.repeat(500_000)}${']'.repeat(500_000)}}`;
  const list = join(folder, 'many.json');
  for (const text of [deep, wide]) {
    await expect(collect(text, ['id'])).rejects.toThrow(/x\.jsonl line 1 holds more than 1048576 lists and objects/);
    writeFileSync(list, `[${text}]`);
    await expect(readJsonRows(list, ['id']).next()).rejects.toThrow(`${list} row 0 holds more than 1048576 lists`);
  }
  expect((await collect(few, ['id'])).rows.length).toBe(1);
  const long = `{"id":"${'x'.repeat(65 * 2 ** 20)}"}`;
  await expect(collect(long, ['id'])).rejects.toThrow(/x\.jsonl line 1 is longer than 64 MiB/);
  writeFileSync(list, `[${long}]`);
  await expect(readJsonRows(list, ['id']).next()).rejects.toThrow(`${list} row 0 is longer than 64 MiB`);
});

test('optional columns are null where they are missing; a column named as a member of objects is no column', async () => {
  const path = join(folder, 'optional.jsonl');
  writeFileSync(path, '{"id":"a"}\n{"id":"b","more":2}');
  const rows: PlacedRow[] = [];
  for await (const row of readJsonRows(path, ['id'], undefined, ['more', 'constructor'])) rows.push(row);
  expect(rows.map(({ row }) => row)).toEqual([
    { id: 'a', more: null, constructor: null },
    { id: 'b', more: 2, constructor: null },
  ]);
});
