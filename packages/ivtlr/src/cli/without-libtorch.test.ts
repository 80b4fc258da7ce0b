/** On a machine where no libtorch has been set up: looking at data works, anything else says what to do. Runs the compiled program. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const model = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
let folder: string;

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'without-libtorch-'));
});
afterAll(() => fs.rmSync(folder, { recursive: true }));

function ivtlr(...args: string[]) {
  return spawnSync(process.execPath, [program, ...args], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, IVTLR_CACHE: path.join(folder, 'cache'), IVTLR_LIBTORCH: '' },
  });
}

test('data is made, counted in tokens and inspected', () => {
  expect(ivtlr('data', 'make', 'dominoes', '--rows', '3', '--out', 'data')).toMatchObject({ status: 0 });
  const stats = ivtlr('data', 'stats', 'dominoes', '--data', 'data', '--model', model, '--json');
  expect(JSON.parse(stats.stdout)).toMatchObject({ samples: 3, lengths: { prompt: { min: 28 } } });
  const inspected = ivtlr('data', 'inspect', 'dominoes', '--data', 'data', '--model', model, '--json');
  expect(JSON.parse(inspected.stdout).images[0]).toMatchObject({ tokenGrid: [4, 4] });
});

test('a model cannot be opened, and one line names the set-up', () => {
  const { status, stderr } = ivtlr('eval', '--model', model, '--limit', '1');
  expect([status, stderr]).toEqual([
    2,
    'error: libtorch was not found: run `npm run setup` once (it finds or fetches libtorch and builds the addon)\n',
  ]);
});
