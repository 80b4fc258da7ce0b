/** Runs the built program as a user would; `npm test` builds it first. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const model = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
const ivtlr = (...args: string[]) => promisify(execFile)(process.execPath, [program, ...args]);

let out: string;
beforeAll(() => {
  out = mkdtempSync(join(tmpdir(), 'ivtlr-demo-'));
});
afterAll(() => rmSync(out, { recursive: true, force: true }));

it('the demo answers fresh images with and without latent steps and draws strips', async () => {
  const { stdout } = await ivtlr('demo', '--seed', '77', '--rows', '40', '--traces', '2', '--out', out, '--json');
  const { seed, results, traces } = JSON.parse(stdout);
  expect(seed).toBe(77);
  expect(results).toHaveLength(5);
  const [latent, written, removed, relay, swapped] = results;
  expect(latent.accuracyStrict).toBeGreaterThan(0.9);
  expect(written.accuracyStrict).toBeGreaterThan(0.9);
  expect(latent.autoregressiveSteps).toBeLessThan(written.autoregressiveSteps);
  expect(removed.accuracyStrict).toBeLessThan(0.6);
  expect(relay).toMatchObject({ samples: 40, autoregressiveSteps: 10 });
  expect(relay.accuracyStrict).toBeGreaterThan(0.9);
  expect(swapped.accuracyStrict).toBeLessThan(0.6);
  expect(traces).toHaveLength(2);
  for (const { image } of traces) {
    expect(existsSync(image)).toBe(true);
    expect(readFileSync(image).subarray(1, 4).toString()).toBe('PNG');
  }
});

it('the demo prints a table, and eval the same numbers for the same images', async () => {
  const { stdout } = await ivtlr('demo', '--seed', '78', '--rows', '20', '--traces', '0', '--out', out);
  expect(stdout).toContain('explicit chain of thought');
  const accuracy = /IVT-LR, 3 latent steps\s*│\s*([\d.]+)/.exec(stdout)![1];
  const predictions = join(out, 'answers.jsonl');
  const args = ['eval', '--model', model, '--seed', '78', '--rows', '20', '--threads', '1', '--json'];
  const report = JSON.parse((await ivtlr(...args, '--predictions', predictions)).stdout);
  expect(report).toMatchObject({ task: 'dominoes', seed: 78, split: 'test' });
  expect(report).toMatchObject({ profile: 'consistent', imageSize: 'native', resize: 'pillow-13', latents: 3 });
  expect(report.results[0].accuracyStrict.toFixed(3)).toBe(accuracy);
  const lines = readFileSync(predictions, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(lines).toHaveLength(20);
  expect(lines.filter(({ predicted, answer }) => predicted === answer)).toHaveLength(report.results[0].correctStrict);
});

it('eval says what is wrong with its arguments', async () => {
  const failure = (...args: string[]) =>
    ivtlr('eval', ...args).then(
      () => null,
      (error) => error as { code: number; stderr: string },
    );
  expect(await failure('--model', join(out, 'nowhere'))).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('nowhere'),
  });
  const unknown = await failure('--model', model, '--ablation', 'everything');
  expect(unknown).toMatchObject({ code: 2, stderr: expect.stringContaining('zero-latents') });
  const stored = await failure('--model', model, '--task', 'm3cot', '--data', join(out, 'no-data'));
  expect(stored).toMatchObject({ code: 2, stderr: expect.stringContaining('data not found') });
});
