import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readParquet, writeParquet } from '../data/parquet.ts';
import { UserError } from '../errors.ts';
import { decodeImage } from '../vision/decode.ts';
import { createDominoes, dominoes } from './dominoes/dominoes.ts';
import { dominoesSample } from './dominoes/generator.ts';
import { makeDominoes } from './dominoes/make.ts';
import { M3COT_COLUMNS, m3cot } from './m3cot/m3cot.ts';
import { readSamples } from './read-samples.ts';
import { findTask, taskNames } from './registry.ts';

let folder = '';
let path = '';
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-samples-'));
  path = await makeDominoes({ rows: 7, out: folder, seed: 3, split: 'test' });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('a made file holds the drawn samples in full, pictures pixel by pixel', async () => {
  expect(path).toBe(join(folder, 'test-00000-of-00001.parquet'));
  const samples = await readSamples(folder, dominoes, { split: 'test' });
  expect(samples.length).toBe(7);
  for (const [index, { rowIndex, image, meta, ...rest }] of samples.entries()) {
    const { image: drawnImage, meta: drawnMeta, ...drawn } = dominoesSample(3, 'test', index);
    expect(rowIndex).toBe(index);
    expect(rest).toEqual(drawn);
    expect(meta).toEqual({ domain: drawnMeta.domain, topic: drawnMeta.topic });
    const decoded = await decodeImage(image);
    expect([decoded.width, decoded.height]).toEqual([112, 112]);
    expect(Buffer.compare(decoded.data, (drawnImage as { data: Uint8Array }).data)).toBe(0);
  }
});

test("the file has M3CoT's columns and is the same each time", async () => {
  for await (const { row } of readParquet([path], M3COT_COLUMNS)) {
    expect(Object.keys(row)).toEqual([...M3COT_COLUMNS]);
    expect(row.split).toBe('test');
  }
  const again = await makeDominoes({ rows: 7, out: join(folder, 'again'), seed: 3, split: 'test' });
  expect(readFileSync(again).equals(readFileSync(path))).toBe(true);
});

test('other sizes are read by the same task; pick targets come from the id, and only when the row still says the same', async () => {
  const own = await makeDominoes({ rows: 2, out: join(folder, 'hard'), hops: 5, dominoes: 8 });
  const [sample] = await readSamples(own, dominoes);
  expect(sample!.pickTargets!.length).toBe(6);
  const [plain] = await readSamples(own, m3cot);
  expect(plain!.pickTargets).toBeUndefined();
  const row = {
    id: sample!.id,
    question: 'q',
    choices: ['x'],
    answer: 'A',
    rationale: 'other',
    image: { bytes: new Uint8Array(1), path: null },
  };
  expect(dominoes.rowToSample(row, 'p', 0)!.pickTargets).toBeUndefined();
});

test('pictures beyond the memory limit wait on disk and read the same', async () => {
  const inMemory = await readSamples(path, dominoes);
  const spooled = await readSamples(path, dominoes, { memoryBytes: 2000 });
  expect(spooled).toEqual(inMemory);
  expect(Object.getOwnPropertyDescriptor(spooled[6]!.image, 'bytes')!.get).toBeDefined();
  expect(Object.getOwnPropertyDescriptor(spooled[0]!.image, 'bytes')!.get).toBeUndefined();
  expect(readdirSync(tmpdir()).filter((name) => name.startsWith('ivtlr-pictures-'))).toEqual([]);
});

test('rows without an image are left out and still counted', async () => {
  const columns = m3cot.columns.map((name) => ({
    name,
    kind: name === 'image' ? ('image' as const) : name === 'choices' ? ('text list' as const) : ('text' as const),
  }));
  const row = { id: 'i', question: 'q', choices: ['x'], answer: 'A', rationale: null, domain: 'd', topic: null };
  const image = { bytes: new Uint8Array([1]), path: 'p.png' };
  async function* rows() {
    yield { ...row, image: null };
    yield { ...row, image };
    yield { ...row, image, answer: null };
  }
  const file = join(folder, 'gaps', 'a.parquet');
  await writeParquet(file, columns, rows());
  const samples = await readSamples(file, m3cot, { limit: 1 });
  expect(samples).toMatchObject([{ rowIndex: 1, rationale: '', meta: { domain: 'd', topic: '' } }]);
  expect(m3cot.groups(samples[0]!)).toEqual({ domain: 'd', topic: '' });
  await expect(readSamples(file, m3cot)).rejects.toThrow(
    new UserError(`${file} row group 0, row 2, column answer: should be text, but holds nothing`),
  );
});

test('bad sizes are refused before anything is written', async () => {
  const out = join(folder, 'never');
  await expect(makeDominoes({ rows: 0, out })).rejects.toThrow(/rows should be a whole number of at least 1, not 0/);
  await expect(makeDominoes({ rows: 1, out, seed: -1 })).rejects.toThrow(/seed/);
  await expect(makeDominoes({ rows: 1, out, hops: 9 })).rejects.toThrow(/hops/);
  await expect(makeDominoes({ rows: 1, out, hops: 0 })).rejects.toThrow(/hops/);
  expect(readdirSync(folder)).not.toContain('never');
});

test('tasks by name, and the generators they offer', () => {
  expect(taskNames).toEqual(['m3cot', 'scienceqa', 'dominoes']);
  expect(() => findTask('domino')).toThrow('there is no task domino; known tasks are m3cot, scienceqa, dominoes');
  const { generator } = createDominoes({ hops: 2, dominoes: 4 });
  expect(generator!.sample(1, 'train', 2).rationale.split('. ').length).toBe(3);
  const lines = (level?: number) => generator!.pretraining.picture!(1, 'train', 0, level).segments.length / 3;
  expect([lines(), lines(2)]).toEqual([4, 2]);
  expect(generator!.pretraining.options!(1, 'train', 0).image).toBeUndefined();
  expect(findTask('m3cot').generator).toBeUndefined();
});
