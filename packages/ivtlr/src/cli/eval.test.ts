/** Runs the built program as a user would; `npm test` builds it first. */
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createCanvas } from '@napi-rs/canvas';
import { afterAll, beforeAll, expect, it } from 'vitest';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const models = fileURLToPath(new URL('../../models', import.meta.url));
const model = join(models, 'dominoes');
const ivtlr = (...args: string[]) => promisify(execFile)(process.execPath, [program, ...args]);
const failure = (...args: string[]) =>
  ivtlr(...args).then(
    () => null,
    (error) => error as { code: number; stderr: string },
  );
const evaluate = async (...args: string[]) =>
  JSON.parse((await ivtlr('eval', '--model', model, '--threads', '1', '--json', ...args)).stdout);

let out: string;
beforeAll(() => {
  out = mkdtempSync(join(tmpdir(), 'ivtlr-eval-cli-'));
});
afterAll(() => rmSync(out, { recursive: true, force: true }));

it('goes on after Ctrl-C where it stopped, to the same answers', async () => {
  const file = join(out, 'answers.jsonl');
  const args = ['--limit', '40', '--batch', '4', '--predictions', file];
  const child = spawn(process.execPath, [program, 'eval', '--model', model, '--threads', '1', ...args]);
  const size = () => (existsSync(file) ? readFileSync(file, 'utf8').split('\n').length - 1 : 0);
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  let said = '';
  child.stderr.on('data', (text) => {
    said += text;
  });
  const timer = setInterval(() => {
    if (size() === 0) return;
    clearInterval(timer); // a second signal would end it at once
    child.kill('SIGINT');
  }, 2);
  const code = await ended;
  clearInterval(timer);
  const bytes = readFileSync(file);
  if (size() === 40)
    truncateSync(file, bytes.indexOf('\n', bytes.length / 2) + 5); // it was faster than the signal
  else {
    expect(code).toBe(130);
    expect(said).toContain(
      `stopped by SIGINT; ${size()} answers are in ${file}: go on with the same command and --resume`,
    );
  }
  const before = size();
  expect(before).toBeGreaterThan(0);
  expect(before).toBeLessThan(40);
  const official = join(out, 'official.jsonl');
  const resumed = await evaluate(...args, '--resume', '--predictions-official', official);
  const whole = await evaluate('--limit', '40', '--batch', '4');
  delete resumed.results[0].secondsPerSample;
  delete whole.results[0].secondsPerSample;
  expect(resumed).toEqual(whole);
  expect(size()).toBe(40);
  const ids = readFileSync(official, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).id);
  expect(ids).toEqual(Array.from({ length: 40 }, (_, i) => `dominoes-test-seed0-hops3-of7-${i}`));
  expect(await failure('eval', '--model', model, ...args, '--resume', '--mode', 'coconut')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('mode (there ivt-lr, now coconut)'),
  });
});

it('names the rows of stored data in official prediction files, and counts rows it leaves out', async () => {
  const data = join(out, 'scienceqa');
  mkdirSync(data);
  writeFileSync(join(data, 'good.png'), createCanvas(112, 112).toBuffer('image/png'));
  writeFileSync(join(data, 'broken.png'), 'no image');
  const row = { question: 'red or blue?', choices: ['red', 'blue'], answer: 1, hint: '', grade: 'grade2' };
  const rest = { subject: 'natural science', topic: '', category: '', skill: '', lecture: '', solution: '' };
  const images = [null, { path: 'good.png' }, { path: 'broken.png' }, { path: 'good.png' }];
  const lines = images.map((image, at) => JSON.stringify({ image, ...row, ...rest, hint: at === 3 ? 'look' : '' }));
  writeFileSync(join(data, 'test.jsonl'), `${lines.join('\n')}\n`);
  const official = join(out, 'scienceqa.json');
  const args = ['--task', 'scienceqa', '--data', data, '--max-new-tokens', '4', '--predictions-official', official];
  const report = await evaluate(...args, '--on-bad-row', 'skip');
  expect(report).toMatchObject({ skipped: 1, results: [{ samples: 2 }] });
  expect(report.results[0].groups.hint.map(({ group }: { group: string }) => group)).toEqual([
    'with hint',
    'without hint',
  ]);
  expect(Object.keys(JSON.parse(readFileSync(official, 'utf8')).results)).toEqual(['1', '3']);
  expect(await failure('eval', '--model', model, ...args)).toMatchObject({
    code: 2,
    stderr: expect.stringContaining(`${official} is there already`),
  });
  expect(await failure('eval', '--model', model, ...args, '--overwrite')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('broken.png'),
  });
  expect(Object.keys(JSON.parse(readFileSync(official, 'utf8')).results)).toEqual(['1', '3']);
});

it('answers in four modes', async () => {
  const latent = await evaluate('--limit', '20');
  expect(latent).toMatchObject({ mode: 'ivt-lr', results: [{ latentSteps: 3 }] });
  const coconut = await evaluate('--limit', '20', '--mode', 'coconut');
  expect(coconut.results[0]).toMatchObject({ name: 'Coconut', latentSteps: 3 });
  expect(coconut.results[0].accuracyStrict).toBeLessThan(latent.results[0].accuracyStrict);
  const cot = await evaluate('--limit', '20', '--mode', 'cot', '--model', join(models, 'dominoes-cot'));
  expect(cot.results[0]).toMatchObject({ latentSteps: 0 });
  expect(cot.results[0].accuracyStrict).toBeGreaterThan(0.9);
  const direct = await evaluate('--limit', '20', '--mode', 'no-cot', '--model', join(models, 'dominoes-cot'));
  expect(direct.results[0].generatedTokens).toBeLessThan(4);
});

it('says which flags do not go together', async () => {
  const cases: [string[], string][] = [
    [['--resume'], '--predictions'],
    [['--mode', 'cot', '--ablation', 'random-patches'], 'without --mode cot'],
    [['--mode', 'no-cot', '--latents', '2'], 'no latent steps'],
    [['--ablation', 'all', '--predictions', join(out, 'x')], 'one run'],
    [['--limit', '1', '--rows', '1'], '--limit'],
    [['--ablation', 'patches-swapped', '--batch', '1', '--limit', '2'], 'batch of at least 2'],
  ];
  for (const [args, text] of cases) {
    const failed = await failure('eval', '--model', model, ...args);
    expect(failed).toMatchObject({ code: 2, stderr: expect.stringContaining(text) });
  }
});
