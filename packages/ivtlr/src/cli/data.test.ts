import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { readSamples } from '../tasks/read-samples.ts';
import { findTask } from '../tasks/registry.ts';
import { registerData } from './data.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-cli-data-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function ivtlr(...args: string[]): Promise<string> {
  const program = new Command('ivtlr').exitOverride().configureOutput({ writeErr: () => {} });
  registerData(program);
  for (const command of program.commands) command.copyInheritedSettings(program);
  const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  try {
    await program.parseAsync(args, { from: 'user' });
    return write.mock.calls.map(([text]) => text).join('');
  } finally {
    write.mockRestore();
  }
}

test('data make dominoes writes a readable file and names it', async () => {
  const path = join(folder, 'validation-00000-of-00001.parquet');
  const said = await ivtlr(
    'data',
    'make',
    'dominoes',
    '--rows',
    '3',
    '--out',
    folder,
    '--seed',
    '9',
    '--split',
    'validation',
  );
  expect(said).toBe(`${path}: 3 rows\n`);
  const samples = await readSamples(path, findTask('dominoes'));
  expect(samples.map(({ id }) => id)).toEqual([0, 1, 2].map((i) => `dominoes-validation-seed9-hops3-of7-${i}`));
});

test('data make replaces a file only when it is told to', async () => {
  const args = ['data', 'make', 'dominoes', '--rows', '2', '--out', join(folder, 'twice')];
  const path = join(folder, 'twice', 'train-00000-of-00001.parquet');
  await ivtlr(...args);
  await expect(ivtlr(...args, '--seed', '1')).rejects.toThrow(
    `${path} is there already; give another --out, or --overwrite`,
  );
  expect((await readSamples(path, findTask('dominoes')))[0]!.id).toMatch(/seed0/);
  await ivtlr(...args, '--seed', '1', '--overwrite');
  expect((await readSamples(path, findTask('dominoes')))[0]!.id).toMatch(/seed1/);
});

test('wrong flags are refused', async () => {
  await expect(ivtlr('data', 'make', 'dominoes', '--out', folder)).rejects.toThrow(/--rows/);
  await expect(ivtlr('data', 'make', 'dominoes', '--rows', '1.5', '--out', folder)).rejects.toThrow(/whole number/);
  await expect(ivtlr('data', 'make', 'dominoes', '--rows', '1', '--out', folder, '--split', 'x')).rejects.toThrow(
    /train/,
  );
});
