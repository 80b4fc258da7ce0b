import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parquetMetadata } from 'hyparquet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { readParquet, writeParquet } from './parquet.ts';
import type { BadRows, PlacedRow } from './row.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-parquet-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const columns = [
  { name: 'id', kind: 'text' },
  { name: 'choices', kind: 'text list' },
  { name: 'image', kind: 'image' },
] as const;

/** Bytes that are no valid UTF-8 anywhere, so that any decoding as text would show. */
const binary = Uint8Array.from({ length: 300 }, (_, i) => (i % 2 === 0 ? 0xff : i % 256));
const rows = [
  { id: 'a', choices: ['x', 'ü, "y"'], image: { bytes: binary, path: 'a.png' } },
  { id: 'b', choices: [], image: null },
  { id: null, choices: null, image: { bytes: new Uint8Array(), path: null } },
  { id: '', choices: [''], image: { bytes: null, path: 'p' } },
];

async function collect(files: string[], names: string[]): Promise<PlacedRow[]> {
  const all: PlacedRow[] = [];
  for await (const placed of readParquet(files, names)) all.push(placed);
  return all;
}

async function* each<T>(items: T[]): AsyncGenerator<T> {
  yield* items;
}

async function writeRows(name: string, content: Record<string, unknown>[] = rows, groupSize = 3): Promise<string> {
  const path = join(folder, name);
  await writeParquet(path, columns, each(content), groupSize);
  return path;
}

describe('write and read', () => {
  test('texts, lists, nulls and binary come back as they were, across row groups and files', async () => {
    const first = await writeRows('first.parquet');
    const second = await writeRows('second.parquet', rows.slice(0, 1));
    const placed = await collect([first, second], ['id', 'choices', 'image']);
    expect(placed.map(({ row }) => row)).toEqual([...rows, rows[0]]);
    expect(placed.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4]);
    expect(placed.map(({ place }) => place)).toEqual([
      ...[0, 1, 2, 3].map((row) => `${first} row group ${Math.floor(row / 3)}, row ${row}`),
      `${second} row group 0, row 0`,
    ]);
    const file = readFileSync(first);
    const metadata = parquetMetadata(file.buffer.slice(file.byteOffset, file.byteOffset + file.length) as ArrayBuffer);
    expect(metadata.row_groups.map((group) => Number(group.num_rows))).toEqual([3, 1]);
    const features = JSON.parse(metadata.key_value_metadata!.find(({ key }) => key === 'huggingface')!.value!);
    expect(features.info.features.image).toEqual({ _type: 'Image' });
  });

  test('only the asked columns are read', async () => {
    const path = await writeRows('columns.parquet');
    expect((await collect([path], ['id']))[0]!.row).toEqual({ id: 'a' });
  });

  test('an empty table is a file with no rows', async () => {
    const path = await writeRows('empty.parquet', []);
    expect(await collect([path], ['id'])).toEqual([]);
  });

  test('a source that fails leaves no file, and an older file stays', async () => {
    const own = join(folder, 'failing');
    async function* failing() {
      yield rows[0]!;
      throw new Error('source broke');
    }
    await expect(writeParquet(join(own, 'x.parquet'), columns, failing(), 1)).rejects.toThrow('source broke');
    expect(readdirSync(own)).toEqual([]);
  });
});

describe('what is wrong is said', () => {
  test('missing files and columns', async () => {
    await expect(collect([join(folder, 'none.parquet')], ['id'])).rejects.toThrow(
      new UserError(`data file not found: ${join(folder, 'none.parquet')}`),
    );
    const path = await writeRows('lacking.parquet');
    await expect(collect([path], ['id', 'answer', 'topic'])).rejects.toThrow(
      new UserError(
        `${path} has no column answer, topic; its columns are id, choices, image (one under another name is taken with --column answer=NAME, in a recipe with data.columns)`,
      ),
    );
  });

  test('a file that is no Parquet, and one that was cut short', async () => {
    const path = join(folder, 'text.parquet');
    writeFileSync(path, 'not a table, but long enough to have a footer');
    await expect(collect([path], ['id'])).rejects.toThrow(/text\.parquet is not a readable Parquet file/);
    const whole = readFileSync(await writeRows('whole.parquet'));
    writeFileSync(path, whole.subarray(0, whole.length - 50));
    await expect(collect([path], ['id'])).rejects.toThrow(UserError);
    // A footer that says nothing at all.
    writeFileSync(path, Buffer.from('PAR1\0\x01\0\0\0PAR1', 'latin1'));
    await expect(collect([path], ['id'])).rejects.toThrow(/what it says of its own contents makes no sense$/);
    writeFileSync(path, '');
    await expect(collect([path], ['id'])).rejects.toThrow(UserError);
  });

  test('damage inside names file, column and rows', async () => {
    const many = Array.from({ length: 40 }, (_, i) => ({
      id: `row ${i} ${'abc'.repeat(i)}`,
      choices: [],
      image: null,
    }));
    const path = await writeRows('damaged.parquet', many, 20);
    const bytes = readFileSync(path);
    bytes.fill(0xff, 4, 60); // the first page of the first column
    writeFileSync(path, bytes);
    const reading = collect([path], ['choices', 'id']);
    await expect(reading).rejects.toThrow(UserError);
    await expect(reading).rejects.toThrow(`${path} row group 0 is corrupt: column id, rows 0 to 19`);
    const bad: BadRows[] = [];
    const kept: PlacedRow[] = [];
    for await (const placed of readParquet([path], ['id'], (rows) => bad.push(rows))) kept.push(placed);
    expect(bad).toMatchObject([{ place: `${path} row group 0`, rows: 20 }]);
    expect(kept.map(({ index }) => index)).toEqual(Array.from({ length: 20 }, (_, i) => 20 + i));
  });
});

describe("files of another writer, in M3CoT's schema (goldens/make_parquet.py)", () => {
  test.each(['snappy', 'zstd', 'gzip', 'brotli', 'lz4', 'none'])('compression %s', async (codec) => {
    const path = new URL(`goldens/m3cot-${codec}.parquet`, import.meta.url).pathname;
    const placed = await collect([path], ['choices', 'id', 'question', 'rationale', 'context', 'image', 'topic']);
    expect(placed.map(({ row: { image: _, ...rest } }) => rest)).toEqual(
      [0, 1, 2, 3, 4, 5].map((i) => ({
        id: `q-${i}`,
        question: `Größe ${i}?`,
        choices: ['x', 'y', 'z'].slice(0, i % 4),
        rationale: i % 2 ? 'First.\nThen. So B.' : null,
        context: null,
        topic: i < 4 ? 't' : null,
      })),
    );
    for (const [i, { row }] of placed.entries()) {
      const image = row.image as { bytes: Uint8Array; path: string } | null;
      if (i === 3) expect(image).toBeNull();
      else expect([image!.path, [...image!.bytes.slice(0, 8)]]).toEqual(['p.png', [137, 80, 78, 71, 13, 10, 26, 10]]);
    }
  });
});
