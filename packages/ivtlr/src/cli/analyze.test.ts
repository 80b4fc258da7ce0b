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

it('probes what the latent steps carry', async () => {
  const args = ['--model', join(models, 'dominoes'), '--limit', '160', '--seed', '3', '--threads', '1'];
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...[program, 'analyze', ...args, '--max-new-tokens', '24', '--probe', ' to (\\w+)$', '--out', out],
  ]);
  expect(stdout).toContain('value of written step');
  const { probe } = JSON.parse(readFileSync(join(out, 'analysis.json'), 'utf8')).models[0];
  expect(probe.pattern).toBe(' to (\\w+)$');
  type Cell = { step: number; written: number; tested: number; patches: { accuracy: number } };
  const cells = probe.cells as Cell[];
  // The last written step, "pink is B", has no such value.
  expect(cells.map(({ step, written }) => `${step} ${written}`)).toEqual(
    [1, 2, 3].flatMap((step) => [1, 2, 3].map((written) => `${step} ${written}`)),
  );
  // Each step picks its own domino: the value is its right colour, and that of the step before its left one.
  for (const { step, written, tested, patches } of cells) {
    expect(tested).toBe(80);
    if (step === written || step === written + 1) expect(patches.accuracy).toBeGreaterThan(0.8);
    else expect(patches.accuracy).toBeLessThan(0.6);
  }
  expect(readFileSync(join(out, 'probe.png')).subarray(1, 4).toString()).toBe('PNG');
  rmSync(join(out, 'probe.png'));
});

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
