/** Runs the built program as a user would; `npm test` builds it first. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { readAblations } from '../server/run-ablations.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const models = fileURLToPath(new URL('../../models', import.meta.url));
const ablate = (...args: string[]) =>
  promisify(execFile)(process.execPath, [program, 'ablate', '--threads', '1', ...args]);
const model = join(models, 'dominoes');
const small = ['--model', model, '--limit', '21', '--batch', '20', '--max-new-tokens', '24', '--max-latents', '2'];

it('compares every change with the full model on the same samples', async () => {
  const report = JSON.parse((await ablate(...small, '--json')).stdout);
  expect(report).toMatchObject({ task: 'dominoes', trainedLatents: 3 });
  const keys = report.results.map(({ key }: { key: string }) => key);
  expect(keys).toEqual([
    'full',
    'zero-latents',
    'text-zeroed',
    'text-swapped',
    'last-text-swapped',
    'no-latent-text',
    'patches-zeroed',
    'patches-swapped',
    'random-patches',
    'no-latent-vision',
    'repeats-allowed',
    'latents-1',
    'latents-2',
  ]);
  const [full, zero] = report.results;
  expect(full.versus).toBeNull();
  expect(full.result.accuracyStrict).toBeGreaterThan(0.9);
  for (const { result, versus } of report.results.slice(1)) {
    expect(result.samples).toBe(21);
    expect(versus.difference).toBeCloseTo(result.accuracyStrict - full.result.accuracyStrict, 9);
    expect(versus.gained - versus.lost).toBe(result.correctStrict - full.result.correctStrict);
    expect(versus.interval95[0]).toBeLessThanOrEqual(versus.difference);
    expect(versus.interval95[1]).toBeGreaterThanOrEqual(versus.difference);
  }
  // The bundled model needs its latent steps.
  expect(zero.versus.interval95[1]).toBeLessThan(0);
  expect(zero.versus.textChanged).toBeGreaterThan(0);
  // The server shows it where it lies in a run's folder.
  const run = mkdtempSync(join(tmpdir(), 'ivtlr-ablate-'));
  writeFileSync(join(run, 'run.json'), '{"totalSteps":1}');
  writeFileSync(join(run, 'table.json'), JSON.stringify(report));
  const tables = readAblations(run);
  rmSync(run, { recursive: true });
  expect(tables).toMatchObject([{ file: 'table.json', task: 'dominoes', trainedLatents: 3 }]);
  expect(tables[0]!.rows.map(({ key }) => key)).toEqual(keys);
  expect(tables[0]!.rows[1]).toMatchObject({
    result: { accuracy: zero.result.accuracyStrict, samples: 21 },
    versus: { difference: zero.versus.difference },
  });
});

it('prints a table, and refuses a model without latent steps', async () => {
  const { stdout } = await ablate(...small, '--max-latents', '0', '--limit', '4');
  expect(stdout).toContain('zero latent steps, T = 0');
  expect(stdout).toContain('against full');
  const failed = await ablate(...small, '--model', join(models, 'dominoes-cot')).then(
    () => null,
    (error) => error as { code: number; stderr: string },
  );
  expect(failed).toMatchObject({ code: 2, stderr: expect.stringContaining('without latent steps') });
});
