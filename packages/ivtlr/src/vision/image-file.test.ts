import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import { readImageFile } from './image-file.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-image-file-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it('reads a file', () => {
  const path = join(folder, 'a.png');
  writeFileSync(path, 'abc');
  expect([...readImageFile(path)]).toEqual([97, 98, 99]);
});

it('refuses what may never end, what is too large and what cannot be read, naming it', () => {
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  const large = join(folder, 'large.png');
  writeFileSync(large, '');
  truncateSync(large, 513 * 2 ** 20); // sparse
  const cases: [string, string][] = [
    [pipe, `${pipe} is a pipe or a device; an image file is needed`],
    ['/dev/zero', '/dev/zero is a pipe or a device; an image file is needed'],
    [folder, `${folder} is a folder; an image file is needed`],
    [large, `${large} has 513 MiB, over the 512 MiB that an image file may have`],
    [join(folder, 'none'), `there is no image ${join(folder, 'none')}`],
  ];
  for (const [path, message] of cases) expect(() => readImageFile(path)).toThrow(new UserError(message));
  expect(() => readImageFile('a\0b')).toThrow(UserError);
});
