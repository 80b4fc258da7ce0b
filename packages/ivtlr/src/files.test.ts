import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { UserError } from './errors.ts';
import { beginAtomicWrite, makeFolder, readJson, readText, writeFileAtomic } from './files.ts';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-files-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('a written file holds exactly the data and no temporary file stays', () => {
  const path = join(folder, 'deep', 'a.json');
  writeFileAtomic(path, 'ä\n');
  writeFileAtomic(path, new Uint8Array([0, 255, 10]));
  expect([...readFileSync(path)]).toEqual([0, 255, 10]);
  expect(readdirSync(join(folder, 'deep'))).toEqual(['a.json']);
});

test('an aborted write leaves the old content alone', () => {
  const path = join(folder, 'a');
  writeFileAtomic(path, 'old');
  const file = beginAtomicWrite(path);
  writeFileSync(file.tempPath, 'half');
  expect(readFileSync(path, 'utf8')).toBe('old');
  file.abort();
  expect(readdirSync(folder)).toEqual(['a']);
});

test('a folder in the place of the file is a UserError and nothing stays behind', () => {
  mkdirSync(join(folder, 'a', 'b'), { recursive: true });
  expect(() => writeFileAtomic(join(folder, 'a'), 'x')).toThrow(UserError);
  expect(readdirSync(folder)).toEqual(['a']);
  writeFileSync(join(folder, 'file'), '');
  expect(() => writeFileAtomic(join(folder, 'file', 'x'), 'x')).toThrow(/cannot make the folder/);
});

test('a write that fails half-way leaves the old file and no temporary one', () => {
  writeFileAtomic(join(folder, 'a'), 'old');
  const unwritable = { length: 3 } as unknown as Uint8Array;
  expect(() => writeFileAtomic(join(folder, 'a'), unwritable)).toThrow(UserError);
  expect(readFileSync(join(folder, 'a'), 'utf8')).toBe('old');
  expect(readdirSync(folder)).toEqual(['a']);
});

test('readText and readJson name the file and the trouble', () => {
  expect(() => readText(join(folder, 'no.txt'), 'recipe')).toThrow(`recipe not found: ${join(folder, 'no.txt')}`);
  expect(() => readText(folder, 'recipe')).toThrow(/is a folder/);
  const path = join(folder, 'bad.json');
  writeFileSync(path, '{"a": 1,}');
  expect(() => readJson(path, 'config')).toThrow(/config .*bad\.json is not valid JSON/);
  writeFileSync(path, '\ufeff{"a": [1]}');
  expect(readJson(path)).toEqual({ a: [1] });
});

test('what never ends is not read', () => {
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  for (const path of [pipe, '/dev/zero'])
    expect(() => readText(path, 'recipe')).toThrow(
      new UserError(`recipe should be a file, but ${path} is a folder, a pipe or a device`),
    );
  expect(readText('/proc/self/status')).toBe('');
});

test.skipIf(process.getuid?.() === 0)('a folder without write permission is a UserError', () => {
  chmodSync(folder, 0o500);
  expect(() => writeFileAtomic(join(folder, 'a'), 'x')).toThrow(UserError);
});

test.each(['/proc/nothing/deep/out', '/dev/null/out', '/dev/null'])(
  'a folder that cannot be made is named, at once: %s',
  (path) => {
    expect(() => makeFolder(path)).toThrow(UserError);
    expect(() => makeFolder(path)).toThrow(`cannot make the folder ${path}: `);
    expect(() => writeFileAtomic(join(path, 'a'), '')).toThrow(`cannot make the folder ${path}: `);
  },
);

test('a pipe is no text file, and is not waited for', () => {
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  expect(() => readJson(pipe, 'model config')).toThrow(
    /^model config should be a file, but .* is a folder, a pipe or a/,
  );
});
