/** Runs the built program as a user would; `npm test` builds it first. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const models = fileURLToPath(new URL('../../models', import.meta.url));

let out: string;
beforeAll(() => {
  out = mkdtempSync(join(tmpdir(), 'ivtlr-analyze-'));
});
afterAll(() => rmSync(out, { recursive: true, force: true }));

it('sums up and draws where two models look', async () => {
  const against = join(models, 'dominoes-cot');
  const args = ['--model', join(models, 'dominoes'), '--against', against, '--limit', '12', '--threads', '1'];
  const { stdout } = await promisify(execFile)(process.execPath, [program, 'analyze', ...args, '--out', out, '--json']);
  const report = JSON.parse(stdout);
  expect(report).toEqual(JSON.parse(readFileSync(join(out, 'analysis.json'), 'utf8')));
  const [latent, written] = report.models;
  expect(latent.latent.map(({ step }: { step: number }) => step)).toEqual([1, 2, 3]);
  expect(latent.written[0].step).toBe(4);
  // One new patch a step: dominoes picks K = 1 of the image's tokens and never the same again.
  const covered = latent.latent.map(({ coverage }: { coverage: { mean: number } }) => coverage.mean);
  expect(covered[1] / covered[0]).toBeCloseTo(2);
  expect(covered[2] / covered[0]).toBeCloseTo(3);
  expect(written.latent).toEqual([]);
  expect(written.written.length).toBeGreaterThan(latent.written.length);
  for (const { attentionRatio, focus } of [...latent.latent, ...latent.written, ...written.written]) {
    const [low, middle, high] = attentionRatio.quartiles;
    expect(low).toBeGreaterThan(0);
    expect(low).toBeLessThanOrEqual(middle);
    expect(middle).toBeLessThanOrEqual(high);
    expect(focus.mean).toBeGreaterThan(0);
  }
  expect(readdirSync(out).sort()).toEqual(['analysis.json', 'attention-ratio.png', 'coverage.png', 'focus.png']);
  for (const name of ['attention-ratio.png', 'coverage.png', 'focus.png']) {
    expect(readFileSync(join(out, name)).subarray(1, 4).toString()).toBe('PNG');
  }
});
