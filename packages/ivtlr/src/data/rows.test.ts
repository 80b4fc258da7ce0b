import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { writeParquet } from './parquet.ts';
import { type BadRows, imageField, type PlacedRow } from './row.ts';
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
  for await (const { index, place } of readRows([table, lines, table], { required: ['image'] }, (rows) =>
    bad.push(rows),
  )) {
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
  for await (const { row, place } of readRows([table], { required: ['image'] })) {
    read.push(() => imageField(row, 'image', place) as { bytes: Uint8Array });
  }
  expect(Buffer.from(read[0]!().bytes).toString()).toBe('bytes');
  expect(read[1]).toThrow(/named\.parquet row group 0, row 1, column image: the image is only named/);
  expect([...read[2]!().bytes]).toEqual([7]);
});

test('JSON images: a path beside the file, an object with path, base64 bytes; what is no path is no image', async () => {
  writeFileSync(join(folder, 'a.png'), 'picture');
  const path = join(folder, 'x.jsonl');
  const images = ['"a.png"', '{"path":"a.png"}', '{"bytes":"cGljdHVyZQ==","path":"z"}', '""', '"none.png"', '3'];
  execFileSync('mkfifo', [join(folder, 'pipe')]);
  images.push('"a\\u0000.png"', `"${'x'.repeat(5000)}"`, '"pipe"', '"/dev/zero"');
  writeFileSync(path, images.map((image) => `{"id":"","image":${image}}`).join('\n'));
  const rows: PlacedRow[] = [];
  for await (const row of readRows([path], { required: ['id', 'image'] })) rows.push(row);
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
  expect(() => read(6)).toThrow(/line 7, column image: there is no image/);
  expect(() => read(7)).toThrow(/line 8, column image: there is no image .{1,210}$/);
  // They would be read for ever.
  for (const i of [8, 9]) expect(() => read(i)).toThrow(/ is a folder, a pipe or a device; an image file is needed$/);
});

test('columns of other names, in both formats; a name that is wrong is an error', async () => {
  const lines = join(folder, 'named.jsonl');
  writeFileSync(lines, '{"prompt":"q","picture":"a.png","topic":"t"}');
  const table = join(folder, 'named-columns.parquet');
  async function* rows() {
    yield { prompt: 'q', topic: 't', picture: { bytes: new Uint8Array([1]), path: null } };
  }
  const kinds = { prompt: 'text', topic: 'text', picture: 'image' } as const;
  const columns = Object.entries(kinds).map(([name, kind]) => ({ name, kind }));
  await writeParquet(table, columns, rows());
  const names = { question: 'prompt', image: 'picture' };
  const wanted = { required: ['question', 'image'], optional: ['topic', 'domain'], names };
  const found: PlacedRow['row'][] = [];
  for await (const { row } of readRows([lines, table], wanted)) found.push(row);
  for (const row of found) expect(row).toMatchObject({ question: 'q', topic: 't', domain: null });
  expect(found.map((row) => imageField(row, 'image', 'p')?.kind)).toEqual(['encoded', 'encoded']);
  const reading = (more: Record<string, string>) =>
    readRows([lines, table], { ...wanted, names: { ...names, ...more } }).next();
  await expect(reading({ prompt: 'question' })).rejects.toThrow(
    'there is no column prompt to take from another; the columns are question, image, topic, domain',
  );
  await expect(reading({ domain: 'field' })).rejects.toThrow(
    /named\.jsonl line 1 has no column field; its columns are/,
  );
  // What to do is said in the task's name of the column.
  await expect(reading({ question: 'text' })).rejects.toThrow(/has no column text; .* --column question=NAME/);
});

test('a pipe among the data is refused and not waited for', async () => {
  for (const name of ['pipe.jsonl', 'pipe.json', 'pipe.parquet']) {
    execFileSync('mkfifo', [join(folder, name)]);
    const reading = readRows([join(folder, name)], { required: ['id'] }).next();
    await expect(reading).rejects.toThrow(`${name} is a folder, a pipe or a device; a data file is needed`);
  }
});
