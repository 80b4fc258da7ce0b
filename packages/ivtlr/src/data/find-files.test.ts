import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { defaultSplit, findDataFiles } from './find-files.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-find-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('a file, a folder, its data folder, by split; Parquet before JSON lines', async () => {
  const own = join(folder, 'hub');
  mkdirSync(join(own, 'data'), { recursive: true });
  const names = ['train-00001-of-00002.parquet', 'train-00000-of-00002.parquet', 'test-00000-of-00001-a1b2.parquet'];
  for (const name of names) writeFileSync(join(own, 'data', name), '');
  for (const name of ['validation.parquet', 'README.md', 'train.jsonl']) writeFileSync(join(own, name), '');
  const at = (...parts: string[]) => join(own, ...parts);
  expect(await findDataFiles(own, 'train')).toEqual([at('data', names[1]!), at('data', names[0]!)]);
  expect(await findDataFiles(own, 'test')).toEqual([at('data', names[2]!)]);
  expect(await findDataFiles(own, 'validation')).toEqual([at('validation.parquet')]);
  expect((await findDataFiles(own)).length).toBe(4);
  expect(await findDataFiles(at('validation.parquet'), 'train')).toEqual([at('validation.parquet')]);
  await expect(findDataFiles(own, 'dev')).rejects.toThrow(
    `no file of split dev in ${own}; the files are of test, train, validation`,
  );
});

test('JSON lines by split', async () => {
  const own = mkdtempSync(join(folder, 'lines-'));
  for (const name of ['train.jsonl', 'test-00000-of-00001.jsonl']) writeFileSync(join(own, name), '');
  expect(await findDataFiles(own, 'test')).toEqual([join(own, 'test-00000-of-00001.jsonl')]);
  expect(await findDataFiles(own)).toHaveLength(2);
});

test('nothing to find', async () => {
  const own = mkdtempSync(join(folder, 'bare-'));
  await expect(findDataFiles(own)).rejects.toThrow(`no .parquet, .jsonl or .json file in ${own}`);
  await expect(findDataFiles(join(own, 'x'))).rejects.toThrow(`data not found: ${join(own, 'x')}`);
});

test('the split to take when none is asked for: test, else the only one', async () => {
  const own = mkdtempSync(join(folder, 'splits-'));
  const add = (name: string) => writeFileSync(join(own, name), '');
  add('train-00000-of-00002.parquet');
  add('train-00001-of-00002.parquet');
  expect(await defaultSplit(own, 'test')).toBe('train');
  expect(await defaultSplit(join(own, 'train-00000-of-00002.parquet'), 'test')).toBe('train');
  add('validation.parquet');
  await expect(defaultSplit(own, 'test')).rejects.toThrow(
    `no file of split test in ${own}; choose one of train, validation with --split`,
  );
  add('test.parquet');
  expect(await defaultSplit(own, 'test')).toBe('test');
});

test('JSON lists by split; the list of data sets beside them is none', async () => {
  const own = mkdtempSync(join(folder, 'lists-'));
  for (const name of ['train.json', 'dataset_info.json']) writeFileSync(join(own, name), '');
  expect(await findDataFiles(own)).toEqual([join(own, 'train.json')]);
});
