/** The fuzz run, short, and what it takes for a defect. Needs the compiled packages, which `npm test` builds first. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
// @ts-expect-error a script without types
import { ReadingProcess } from './fuzz/reading-process.mjs';
// @ts-expect-error a script without types
import { unclear } from './fuzz/unclear.mjs';

const folder = mkdtempSync(join(tmpdir(), 'ivtlr-fuzz-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

const script = new URL('./fuzz.mjs', import.meta.url).pathname;
const fuzz = (...args: string[]) =>
  JSON.parse(
    execFileSync(process.execPath, [script, '--json', ...args], {
      encoding: 'utf8',
      env: { ...process.env, TMPDIR: folder },
    }),
  );

test('damaged files of every kind are accepted or refused in one clear sentence', () => {
  const { table, save } = fuzz('--count', '60', '--seed', '1');
  expect(save).toBeNull();
  expect(table.map(({ kind }: { kind: string }) => kind)).toEqual([
    'images',
    'safetensors',
    'pth',
    'parquet',
    'recipes',
    'json-lines',
    'model',
    'adapter',
    'checkpoint',
  ]);
  for (const { kind, accepted, refused, crash, hang, unclear, memory, left } of table) {
    expect({ kind, crash, hang, unclear, memory, left }).toEqual({
      kind,
      crash: 0,
      hang: 0,
      unclear: 0,
      memory: 0,
      left: 0,
    });
    expect(accepted + refused).toBe(60);
    expect(refused).toBeGreaterThan(15);
    expect(accepted, kind).toBeGreaterThan(0);
  }
  expect(readdirSync(folder)).toEqual([]);
});

test('the same seed gives the same inputs, wherever it starts', () => {
  const args = ['--only', 'json-lines', '--seed', '7'];
  const verdicts = (from: number, count: number) => {
    const { accepted, refused } = fuzz(...args, '--from', String(from), '--count', String(count)).table[0];
    return [accepted, refused];
  };
  const [all, first, second] = [verdicts(0, 24), verdicts(0, 12), verdicts(12, 12)];
  expect(all).toEqual([first[0] + second[0], first[1] + second[1]]);
});

test.each([
  ['', 'an empty message'],
  ['a\n\nb', 'several paragraphs or a stack'],
  ['a\n    at read (file.js:3:4)', 'several paragraphs or a stack'],
  ['x has the dtype undefined', 'a value nobody can read'],
  ['it holds [object Object]', 'a value nobody can read'],
  ['x.png cannot be decoded: ', 'an empty reason'],
  ['x.png cannot be decoded ()', 'an empty reason'],
  ['no key \u001b[31m', 'control characters'],
  ['a'.repeat(3001), '3001 characters'],
  ['x.yaml:3:1: lr: expected number\nx.yaml:4:1: out: missing', null],
])('what makes a message unclear: %j', (message, problem) => {
  expect(unclear(message)).toBe(problem);
});

test('a process that hangs, swells or dies is a verdict, and the next input is read', async () => {
  const worker = join(folder, 'worker.cjs');
  writeFileSync(
    worker,
    `process.on('message', (what) => {
      if (what === 'hang') for (;;);
      if (what === 'abort') process.abort();
      if (what === 'throw') setTimeout(() => { throw new Error('late'); });
      else process.send({ outcome: 'accepted', message: '', peak: what === 'peak' ? 2e8 : 0 });
    });
    process.send('ready');`,
  );
  const reading = new ReadingProcess(worker, { cwd: folder, tmp: folder, seconds: 0.3, bytes: 1e8 });
  try {
    for (const [what, problem, message] of [
      ['hang', 'hang', /no answer after/],
      ['peak', 'memory', /191 MiB/],
      ['abort', 'crash', /^SIGABRT/],
      ['throw', 'crash', /^1\n[\s\S]*Error: late/],
    ] as const) {
      const verdict = await reading.read(what);
      expect(verdict).toMatchObject({ outcome: 'defect', problem });
      expect(verdict.message).toMatch(message);
      expect(await reading.read('fine')).toMatchObject({ outcome: 'accepted' });
    }
  } finally {
    reading.end();
  }
});
