import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { writeParquet } from '../data/parquet.ts';
import type { BadRows } from '../data/row.ts';
import type { Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { m3cot } from './m3cot/m3cot.ts';
import { encodePng } from './make-file.ts';
import { readSamples } from './read-samples.ts';
import { badRowsOf, RowShare, SharedRows } from './shared-rows.ts';
import type { Task } from './task.ts';

const ROWS = 23;
/** Characters of a rationale. */
const LONG = 3000;
let folder = '';
let parquet = '';
let lines = '';
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-shared-rows-'));
  parquet = join(folder, 'parquet');
  lines = join(folder, 'lines');
  mkdirSync(lines);
  const png = await encodePng({ kind: 'rgb', width: 2, height: 2, data: new Uint8Array(12).fill(7) });
  writeFileSync(join(lines, 'a.png'), png);
  const row = (i: number, image: unknown) => ({
    ...{ id: `row ${i}`, question: 'q', choices: ['x', 'y'], answer: 'AB'[i % 2], rationale: `${i} `.repeat(LONG / 3) },
    ...{ domain: 'd', topic: null, image },
  });
  const text = (name: string) => ({ name, kind: 'text' as const });
  const columns = [
    ...['id', 'question', 'answer', 'rationale', 'domain', 'topic'].map(text),
    { name: 'choices', kind: 'text list' as const },
    { name: 'image', kind: 'image' as const },
  ];
  // Two files of row groups of four; the third row has no image.
  async function* rows(start: number, end: number) {
    for (let i = start; i < end; i++) yield row(i, i === 2 ? null : { bytes: png, path: null });
  }
  await writeParquet(join(parquet, 'train-0.parquet'), columns, rows(0, 14), 4);
  await writeParquet(join(parquet, 'train-1.parquet'), columns, rows(14, ROWS), 4);
  const list = Array.from({ length: ROWS }, (_, i) => row(i, i === 2 ? null : 'a.png'));
  writeFileSync(join(lines, 'train.jsonl'), list.map((one) => JSON.stringify(one)).join('\n'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The shares of so many processes, each with the rows that it has looked at. */
async function shares(path: string, of: number, onBad?: (bad: BadRows) => void) {
  const looked = Array.from({ length: of }, () => [] as number[]);
  const read = looked.map((seen, index) => {
    const task: Task = {
      ...m3cot,
      rowToSample(row, place, number) {
        seen.push(number);
        return m3cot.rowToSample(row, place, number);
      },
    };
    return RowShare.read(path, task, { purpose: 'train', onBad }, { index, of });
  });
  return { looked, shares: await Promise.all(read) };
}

/** With the images' bytes, which are sometimes read at each look. */
const whole = (sample: Sample) => ({
  ...sample,
  images: sample.images.map((image) => ({ ...image, bytes: [...(image as { bytes: Uint8Array }).bytes] })),
});

test.each(['parquet', 'lines'])('%s: read once between all, and each finds what one alone reads', async (kind) => {
  const path = kind === 'parquet' ? parquet : lines;
  const alone = (await readSamples(path, m3cot, { purpose: 'train' })).map(whole);
  expect(alone.length).toBe(ROWS - 1);
  for (const of of [1, 2, 3]) {
    const { looked, shares: own } = await shares(path, of);
    expect(looked.flat().sort((a, b) => a - b)).toEqual(Array.from({ length: ROWS }, (_, i) => i));
    // In row groups of four or, of a JSON file, row by row.
    for (const { length } of looked) expect(Math.abs(length - ROWS / of)).toBeLessThanOrEqual(4);
    const descriptions = own.map(({ description }) => description);
    using rows = SharedRows.open(descriptions, m3cot)!;
    for (const share of own) share[Symbol.dispose]();
    expect(rows.length).toBe(alone.length);
    // In any order, as training asks.
    for (const number of [5, 0, 21, ...alone.keys()]) expect(whole(rows.sample(number))).toEqual(alone[number]);
    // Places, and no texts.
    expect(rows.bytesKept).toBe(24 * rows.length);
    expect(alone.reduce((sum, { rationale }) => sum + rationale.length, 0)).toBeGreaterThan(50 * rows.bytesKept);
  }
});

test('bad rows of all shares are known to all', async () => {
  const path = join(folder, 'bad.jsonl');
  const good = { id: '0', question: 'q', choices: ['x'], answer: 'A', rationale: '', image: 'lines/a.png' };
  const list = [good, { ...good, answer: 4 }, good, good, { ...good, image: 'none.png' }].map((one) =>
    JSON.stringify(one),
  );
  writeFileSync(path, [...list, '{"id":'].join('\n'));
  const { shares: own } = await shares(path, 2, () => {});
  const descriptions = own.map(({ description }) => description);
  expect(badRowsOf(descriptions).map(({ message }) => message)).toEqual([
    expect.stringContaining('line 5, column image: there is no image'),
    expect.stringContaining('line 2, column answer: should be text'),
    expect.stringContaining('line 6 is not JSON'),
  ]);
  using rows = SharedRows.open(descriptions, m3cot)!;
  expect(Array.from({ length: rows.length }, (_, i) => rows.sample(i)).map((sample) => sample)).toMatchObject([
    { rowIndex: 0 },
    { rowIndex: 2 },
    { rowIndex: 3 },
  ]);
  for (const share of own) share[Symbol.dispose]();
  // Without being asked to leave them out, the process that finds one ends.
  await expect(shares(path, 2)).rejects.toThrow(UserError);
});

test('a share that cannot be opened, or is not the one meant', async () => {
  const { shares: own } = await shares(lines, 2);
  const descriptions = own.map(({ description }) => description);
  expect(SharedRows.open([descriptions[1]!], m3cot)).toBe(null);
  const other = JSON.stringify({ ...JSON.parse(descriptions[1]!), path: JSON.parse(descriptions[0]!).path });
  expect(SharedRows.open([descriptions[0]!, other], m3cot)).toBe(null);
  own[1]![Symbol.dispose]();
  expect(SharedRows.open(descriptions, m3cot)).toBe(null);
  own[0]![Symbol.dispose]();
});
