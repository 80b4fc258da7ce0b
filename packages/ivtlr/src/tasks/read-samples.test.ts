import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readParquet, writeParquet } from '../data/parquet.ts';
import type { BadRows } from '../data/row.ts';
import { UserError } from '../errors.ts';
import { decodeImage } from '../vision/decode.ts';
import { createDominoes, dominoes } from './dominoes/dominoes.ts';
import { dominoesSample } from './dominoes/generator.ts';
import { makeDominoes } from './dominoes/make.ts';
import { M3COT_COLUMNS, m3cot } from './m3cot/m3cot.ts';
import { encodePng } from './make-file.ts';
import { readSamples, streamSamples } from './read-samples.ts';
import { findTask, taskNames } from './registry.ts';

let folder = '';
let path = '';
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-samples-'));
  path = await makeDominoes({ rows: 7, out: folder, seed: 3, split: 'test' });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('a made file holds the drawn samples in full, images pixel by pixel', async () => {
  expect(path).toBe(join(folder, 'test-00000-of-00001.parquet'));
  const samples = await readSamples(folder, dominoes, { split: 'test' });
  expect(samples.length).toBe(7);
  for (const [
    index,
    {
      rowIndex,
      images: [image],
      meta,
      ...rest
    },
  ] of samples.entries()) {
    const {
      images: [drawnImage],
      meta: drawnMeta,
      ...drawn
    } = dominoesSample(3, 'test', index);
    expect(rowIndex).toBe(index);
    expect(rest).toEqual(drawn);
    expect(meta).toEqual({ domain: drawnMeta.domain, topic: drawnMeta.topic });
    const decoded = await decodeImage(image!);
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

test('images beyond the memory limit wait on disk and read the same', async () => {
  const inMemory = await readSamples(path, dominoes);
  const spooled = await readSamples(path, dominoes, { memoryBytes: 2000 });
  expect(spooled).toEqual(inMemory);
  expect(Object.getOwnPropertyDescriptor(spooled[6]!.images[0]!, 'bytes')!.get).toBeDefined();
  expect(Object.getOwnPropertyDescriptor(spooled[0]!.images[0]!, 'bytes')!.get).toBeUndefined();
  expect(readdirSync(tmpdir()).filter((name) => name.startsWith('ivtlr-images-'))).toEqual([]);
});

test('rows without an image are left out and still counted', async () => {
  const { columns: needed, trainingColumns, optionalColumns } = m3cot;
  const columns = [...needed, ...trainingColumns, ...optionalColumns].map((name) => ({
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

test('JSON lines with image files; bad rows are skipped and said, in order', async () => {
  const own = join(folder, 'lines');
  mkdirSync(own);
  const [whole] = await readSamples(path, m3cot, { limit: 1 });
  const png = (whole!.images[0] as { bytes: Uint8Array }).bytes;
  writeFileSync(join(own, 'whole.png'), png);
  writeFileSync(join(own, 'cut.png'), png.subarray(0, png.length / 2));
  writeFileSync(join(own, 'text.png'), 'no image');
  const line = (id: string, more: object) =>
    JSON.stringify({
      id,
      question: 'q',
      choices: ['x'],
      answer: 'A',
      rationale: null,
      domain: 'd',
      topic: 't',
      ...more,
    });
  const lines = [
    line('0', { image: 'whole.png' }),
    line('1', { image: 'cut.png' }),
    line('2', { image: null }),
    line('3', { image: 'whole.png', answer: 4 }),
    '{"id":',
    line('5', { image: 'none.png' }),
    line('6', { image: 'text.png' }),
    line('7', { image: 'whole.png' }),
  ];
  const file = join(own, 'train.jsonl');
  writeFileSync(file, lines.join('\n'));
  const bad: BadRows[] = [];
  const kept = await readSamples(own, m3cot, { split: 'train', onBad: (rows) => bad.push(rows) });
  expect(kept.map(({ id, rowIndex }) => [id, rowIndex])).toEqual([
    ['0', 0],
    ['7', 7],
  ]);
  expect((await decodeImage(kept[1]!.images[0]!)).width).toBe(112);
  const said = bad.map(({ message }) => message).sort();
  expect(said.length).toBe(5);
  expect(said.filter((message) => message.includes(`${file} line 5 is not JSON`)).length).toBe(1);
  for (const wrong of ['cut.png (', 'line 4, column answer: should be text', 'none.png', 'text.png (']) {
    expect(said.filter((message) => message.includes(wrong)).length, wrong).toBe(1);
  }
  await expect(readSamples(own, m3cot)).rejects.toThrow(/line 4, column answer/);
  const first = [];
  for await (const sample of streamSamples(own, m3cot, { limit: 1, onBad: () => {} })) first.push(sample.id);
  expect(first).toEqual(['0']);
});

test('samples that are not usable are left out with their place, in order', async () => {
  const bad: BadRows[] = [];
  const usable = async ({ id }: { id: string }) => {
    if (id.endsWith('-2')) throw new UserError('too long');
    if (id.endsWith('-4')) throw new UserError(`${path} row group 0, row 4: too narrow`);
  };
  const kept = await readSamples(path, dominoes, { usable, onBad: (rows) => bad.push(rows) });
  expect(kept.map(({ rowIndex }) => rowIndex)).toEqual([0, 1, 3, 5, 6]);
  expect(bad).toEqual([
    { place: `${path} row group 0, row 2`, message: `${path} row group 0, row 2: too long`, rows: 1 },
    { place: `${path} row group 0, row 4`, message: `${path} row group 0, row 4: too narrow`, rows: 1 },
  ]);
  expect((await readSamples(path, dominoes, { usable })).length).toBe(7);
  const broken = async () => {
    throw new TypeError('no fault of the row');
  };
  await expect(readSamples(path, dominoes, { usable: broken, onBad: () => {} })).rejects.toThrow(TypeError);
});

test('a corrupt row group is an error, or skipped with its rows counted', async () => {
  const broken = join(folder, 'broken.parquet');
  copyFileSync(path, broken);
  const bytes = readFileSync(broken);
  bytes.fill(0xff, 4, 40);
  writeFileSync(broken, bytes);
  await expect(readSamples(broken, m3cot)).rejects.toThrow(
    /broken\.parquet row group 0 is corrupt: column id, rows 0 to 6/,
  );
  const bad: BadRows[] = [];
  await expect(readSamples(broken, m3cot, { onBad: (rows) => bad.push(rows) })).rejects.toThrow(/no row has an image/);
  expect(bad).toMatchObject([{ place: `${broken} row group 0`, rows: 7 }]);
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
  expect(taskNames).toEqual(['m3cot', 'scienceqa', 'dominoes', 'relay', 'relay-6', 'relay-add']);
  expect(() => findTask('domino')).toThrow('there is no task domino; known tasks are m3cot, scienceqa, dominoes');
  const { generator } = createDominoes({ hops: 2, dominoes: 4 });
  expect(generator!.sample(1, 'train', 2).rationale.split('. ').length).toBe(3);
  const lines = (level?: number) => generator!.pretraining.picture!(1, 'train', 0, level).segments.length / 3;
  expect([lines(), lines(2)]).toEqual([4, 2]);
  expect(generator!.pretraining.options!(1, 'train', 0).image).toBeUndefined();
  expect(findTask('m3cot').generator).toBeUndefined();
});

test('a list of images in place of one, in Parquet files of another writer and in JSON: two, one and none; a row without a list is left out', async () => {
  const table = new URL('../data/goldens/m3cot-images.parquet', import.meta.url).pathname;
  const lines = join(folder, 'images.jsonl');
  const png = async (...rgb: number[]) => {
    const data = Uint8Array.from({ length: 3 * 2 * 3 }, (_, i) => rgb[i % 3]!);
    return { bytes: Buffer.from(await encodePng({ kind: 'rgb', width: 3, height: 2, data })).toString('base64') };
  };
  const images = [[await png(10, 0, 0), await png(0, 20, 0)], [await png(0, 0, 30)], [], null];
  const row = { question: 'Which?', choices: ['x', 'y'], answer: 'B', rationale: 'So B.' };
  writeFileSync(lines, images.map((own, i) => JSON.stringify({ id: `s-${i}`, ...row, images: own })).join('\n'));
  for (const file of [table, lines]) {
    const samples = await readSamples(file, m3cot, {});
    expect(samples.map(({ id }) => id)).toEqual(['s-0', 's-1', 's-2']);
    const first = await Promise.all(
      samples.map(({ images }) =>
        Promise.all(images.map(async (image) => [...(await decodeImage(image)).data.slice(0, 3)])),
      ),
    );
    expect(first).toEqual([
      [
        [10, 0, 0],
        [0, 20, 0],
      ],
      [[0, 0, 30]],
      [],
    ]);
  }
});
