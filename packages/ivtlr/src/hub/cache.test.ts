import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { cachedSnapshot } from './cache.ts';

let cache: string;
let refs: string;
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'ivtlr-cache-'));
  refs = join(cache, 'models--a--b', 'refs');
  mkdirSync(refs, { recursive: true });
  mkdirSync(join(cache, 'models--a--b', 'snapshots', 'abc'), { recursive: true });
});
afterEach(() => rmSync(cache, { recursive: true }));

const found = () => cachedSnapshot({ cache }, 'models', 'a/b');

test('a ref leads to its snapshot', () => {
  writeFileSync(join(refs, 'main'), 'abc\n');
  expect(found()).toEqual({ folder: join(cache, 'models--a--b', 'snapshots', 'abc'), commit: 'abc' });
});

test.each(['../../..', '..', '', '/etc', 'abc/..', 'abc\0'])('a ref that holds %j is refused', (text) => {
  writeFileSync(join(refs, 'main'), text);
  expect(found).toThrow(UserError);
  expect(found).toThrow('should hold the name of a commit');
});

test('a ref that is a folder or a loop of links cannot be read', () => {
  mkdirSync(join(refs, 'main'));
  expect(found).toThrow(/cannot read .*main: EISDIR/);
  rmSync(join(refs, 'main'), { recursive: true });
  symlinkSync('main', join(refs, 'main'));
  expect(found).toThrow(/cannot read .*main: ELOOP/);
});

test('without a ref file a revision that is no plain name has no snapshot', () => {
  mkdirSync(join(cache, 'models--a--b', 'snapshots', 'pr', '1'), { recursive: true });
  expect(cachedSnapshot({ cache }, 'models', 'a/b', 'pr/1')).toBeNull();
});
