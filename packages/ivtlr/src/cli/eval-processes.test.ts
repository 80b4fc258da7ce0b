/** `ivtlr eval|ablate|analyze --processes`, as a user runs them; `npm test` builds the program first. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createCanvas } from '@napi-rs/canvas';
import { afterAll, beforeAll, expect, test } from 'vitest';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const model = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
const poisoned = fileURLToPath(new URL('../../../../test/poisoned-worker.mjs', import.meta.url));

let out = '';
beforeAll(() => {
  out = mkdtempSync(join(tmpdir(), 'ivtlr-eval-processes-'));
});
afterAll(() => rmSync(out, { recursive: true, force: true }));

function start(args: readonly string[], env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [program, ...args, '--model', model, '--threads', '1'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text: string) => {
      said[name] += text;
    });
  const ended = new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, ...said }));
  });
  return { child, said, ended };
}
const run = (args: readonly string[], env?: Record<string, string>) => start(args, env).ended;

/** Process ids of the children of a process. */
const childrenOf = (pid: number) =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/stat`, 'utf8').split(') ')[1]!.split(' ')[1] === String(pid);
      } catch {
        return false;
      }
    })
    .map(Number);
const isAlive = (pid: number) => existsSync(`/proc/${pid}`);
async function until(look: () => boolean): Promise<void> {
  for (const end = performance.now() + 60_000; !look(); ) {
    if (performance.now() > end) throw new Error('it did not come to that');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Answers of a file without what depends on the clock. */
const answersOf = (file: string) =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => ({ ...JSON.parse(line), seconds: 0 }) as { index: number });
const linesOf = (file: string) => (existsSync(file) ? readFileSync(file, 'utf8').split('\n').length - 1 : 0);
/** A JSON result without what depends on the clock. */
const resultOf = (text: string) =>
  JSON.parse(text, (key, value) => (key === 'secondsPerSample' ? 0 : value)) as Record<string, unknown>;

/** Numbers as they are within rounding, which depends on how many rows a matrix has. */
function rounded(value: unknown): unknown {
  if (typeof value === 'number') {
    return Number.isInteger(value) ? value : expect.closeTo(value, 4 - Math.floor(Math.log10(Math.abs(value))));
  }
  if (Array.isArray(value)) return value.map(rounded);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, rounded(entry)]));
}

test('numbers and files are those of one process', { timeout: 120_000 }, async () => {
  const images = [0, 1, 2, 3, 4, 5, 6].map((shade) => {
    const canvas = createCanvas(60 + 20 * shade, 80);
    const context = canvas.getContext('2d');
    context.fillStyle = `rgb(${30 * shade}, 90, 200)`;
    context.fillRect(10, 10, 40, 50);
    return canvas.toBuffer('image/png').toString('base64');
  });
  images[3] = 'bm8gaW1hZ2U='; // a row that cannot be read
  const data = join(out, 'rows.jsonl');
  const rows = images.map((bytes, at) => ({
    ...{ id: `row-${at}`, question: `What is ${at}?`, choices: ['one', 'two'], answer: 'A', rationale: 'It is so.' },
    ...{ domain: 'a', topic: at % 2 ? 'odd' : 'even', image: { bytes } },
  }));
  writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  const stored = ['--task', 'm3cot', '--data', data, '--on-bad-row', 'skip', '--max-new-tokens', '8'];
  for (const [name, args] of [
    ['fresh', ['--limit', '41']],
    ['stored', stored],
    ['swapped', ['--limit', '23', '--ablation', 'patches-swapped']],
    ['random', ['--limit', '9', '--ablation', 'random-patches', '--seed', '5']],
  ] as const) {
    const seen = [];
    for (const processes of ['1', '2', '3']) {
      const file = join(out, `${name}-${processes}.jsonl`);
      const official = join(out, `${name}-${processes}.official`);
      const files = ['--predictions', file, '--predictions-official', official];
      const { code, stdout, stderr } = await run([
        ...['eval', ...args, '--batch', '3', '--json', ...files, '--processes', processes],
      ]);
      expect(code, stderr).toBe(0);
      const answers = answersOf(file);
      expect(answers.map(({ index }) => index)).toEqual(answers.map(({ index }) => index).sort((a, b) => a - b));
      seen.push([answers, readFileSync(official, 'utf8'), resultOf(stdout)]);
    }
    expect(seen[1], name).toEqual(seen[0]);
    expect(seen[2], name).toEqual(seen[0]);
  }
});

test('rows that the model cannot take are left out and counted by all commands', { timeout: 120_000 }, async () => {
  const picture = (width: number, height: number) =>
    createCanvas(width, height).toBuffer('image/png').toString('base64');
  const bytes = picture(112, 112);
  const rows = [
    { question: 'What is it?', image: { bytes } },
    { question: 'What is it?', image: { bytes: picture(900, 3) } },
    { question: 'What is <|image_pad|> it?', image: { bytes } },
    { question: 'which colour? '.repeat(200), image: { bytes } },
    { question: 'What is it?', image: { bytes: picture(120, 80) } },
  ].map((row, at) => ({
    id: `row-${at}`,
    choices: ['one', 'two'],
    answer: 'A',
    rationale: '',
    domain: '',
    topic: '',
    ...row,
  }));
  const data = join(out, 'hard.jsonl');
  writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  const asked = ['--task', 'm3cot', '--data', data, '--max-new-tokens', '2', '--batch', '2', '--json'];
  for (const args of [
    ['eval'],
    ['eval', '--processes', '2'],
    ['eval', '--mode', 'no-cot'],
    ['ablate', '--max-latents', '1'],
    ['analyze', '--out', join(out, 'hard')],
  ]) {
    const { code, stdout, stderr } = await run([...args, ...asked, '--on-bad-row', 'skip']);
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout), args.join(' ')).toMatchObject({ skipped: 3 });
    expect(stderr).toMatch(/skipped: .*hard\.jsonl line 2.*: an image of 900x3 is too narrow/);
    expect(stderr).toMatch(/skipped: .*hard\.jsonl line 3: sample row-2: the question spells <\|image_pad\|>/);
    expect(stderr).toMatch(/skipped: .*hard\.jsonl line 4: the prompt takes \d+ positions/);
  }
  const { code, stderr } = await run(['eval', ...asked]);
  expect(code).toBe(2);
  expect(stderr).toContain('is too narrow');
});

test('ablate and analyze too', { timeout: 120_000 }, async () => {
  for (const args of [
    ['ablate', '--max-latents', '2'],
    ['analyze', '--out', join(out, 'analysis')],
  ]) {
    const seen = [];
    for (const processes of ['1', '3']) {
      const { code, stdout, stderr } = await run([
        ...[...args, '--limit', '12', '--batch', '4', '--json', '--processes', processes],
      ]);
      expect(code, stderr).toBe(0);
      seen.push(resultOf(stdout));
    }
    expect(seen[1]).toEqual(rounded(seen[0]));
  }
});

test('what a killed process had in hand is asked again', { timeout: 120_000 }, async () => {
  const args = ['eval', '--limit', '600', '--batch', '4', '--json'];
  const whole = await run([...args, '--predictions', join(out, 'whole')]);
  const { child, ended } = start([...args, '--processes', '2', '--predictions', join(out, 'killed')]);
  const victims = new Set<number>();
  for (const at of [40, 200, 380]) {
    await until(() => linesOf(join(out, 'killed')) >= at && childrenOf(child.pid!).length === 2);
    const victim = childrenOf(child.pid!).find((pid) => !victims.has(pid))!;
    victims.add(victim);
    process.kill(victim, 'SIGKILL');
  }
  const { code, stdout, stderr } = await ended;
  expect(code, stderr).toBe(0);
  expect(stderr.match(/worker \d died: it was ended by SIGKILL/g)).toHaveLength(3);
  expect(resultOf(stdout)).toEqual(resultOf(whole.stdout));
  expect(answersOf(join(out, 'killed'))).toEqual(answersOf(join(out, 'whole')));
  // The whole program is killed: its workers end, and the answers that are there are not asked again.
  const cut = start([...args, '--processes', '2', '--predictions', join(out, 'cut')]);
  await until(() => linesOf(join(out, 'cut')) >= 100);
  const workers = childrenOf(cut.child.pid!);
  cut.child.kill('SIGKILL');
  await until(() => !workers.some(isAlive));
  expect(workers).toHaveLength(2);
  const before = linesOf(join(out, 'cut'));
  expect(before).toBeLessThan(600);
  const resumed = await run([...args, '--processes', '3', '--predictions', join(out, 'cut'), '--resume']);
  expect(resumed.stderr).toMatch(/^\d+ answers are there already/);
  expect(answersOf(join(out, 'cut'))).toEqual(answersOf(join(out, 'whole')));
});

test('Ctrl-C ends all', async () => {
  const file = join(out, 'stopped');
  const { child, ended } = start(['eval', '--limit', '2000', '--processes', '2', '--predictions', file]);
  await until(() => linesOf(file) > 0);
  const workers = childrenOf(child.pid!);
  for (const pid of [...workers, child.pid!]) process.kill(pid, 'SIGINT');
  const { code, stderr } = await ended;
  expect(code).toBe(130);
  expect(stderr).toContain(`stopped by SIGINT; ${linesOf(file)} answers are in ${file}`);
  await until(() => !workers.some(isAlive));
});

test('a question that kills every process that answers it is named', { timeout: 60_000 }, async () => {
  const rows = [1, 2, 3, 4, 5, 6].map((at) => ({
    ...{ id: `row-${at}`, question: at === 4 ? 'Poison?' : 'What?', choices: ['one', 'two'], answer: 'A' },
    ...{
      rationale: 'So.',
      domain: 'a',
      topic: 'b',
      image: { bytes: createCanvas(60, 60).toBuffer('image/png').toString('base64') },
    },
  }));
  const data = join(out, 'poison.jsonl');
  writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  const file = join(out, 'poison.answers');
  const { code, stderr } = await run(
    [
      ...['eval', '--task', 'm3cot', '--data', data, '--batch', '2', '--processes', '2', '--max-new-tokens', '4'],
      ...['--predictions', file],
    ],
    { NODE_OPTIONS: `--import ${poisoned}`, POISON: 'Poison' },
  );
  expect(code, stderr).toBe(2);
  expect(stderr).toMatch(/error: .*row-4/);
});

test('mistakes are told once', async () => {
  const launched = await run(['eval', '--limit', '2'], { WORLD_SIZE: '2', RANK: '0' });
  expect(launched.code).toBe(2);
  expect(launched.stderr).toMatch(/^error: this command starts its processes itself[^\n]*\n$/);
  const { code, stderr } = await run(['eval', '--limit', '2', '--processes', '3', '--device', 'cuda:77']);
  expect(code).toBe(2);
  expect(stderr).toMatch(/^error: --device cuda:77: [^\n]*\n$/);
});
