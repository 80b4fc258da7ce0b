import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const model = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'ivtlr-outputs-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A line for bash, in which $IVTLR is the program, and what came of it. */
function bash(line: string): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const IVTLR = `${process.execPath} ${program}`;
  const child = spawn('bash', ['-o', 'pipefail', '-c', line], { env: { ...process.env, IVTLR }, cwd: folder });
  const text = { stdout: '', stderr: '' };
  child.stdout.on('data', (piece) => {
    text.stdout += piece;
  });
  child.stderr.on('data', (piece) => {
    text.stderr += piece;
  });
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, ...text })));
}

const evaluation = `$IVTLR eval --model ${model} --task dominoes --limit 3 --batch 3 --threads 1 --max-new-tokens 20`;
const full = /^error: stdout cannot be written: .*ENOSPC.*\n$/;

it('says in one sentence that stdout is full', async () => {
  for (const command of ['$IVTLR --help', '$IVTLR data make dominoes --rows 1 --out made --json']) {
    const { code, stderr } = await bash(`${command} > /dev/full`);
    expect([code, stderr]).toEqual([1, expect.stringMatching(full)]);
  }
  const { code, stderr } = await bash(`${evaluation} --json > /dev/full`);
  expect([code, stderr.split('\n').slice(-2)[0]]).toEqual([1, expect.stringMatching(/^error: stdout .*ENOSPC/)]);
});

it('ends quietly when stdout is closed, and goes on when stderr is', async () => {
  // The reader is gone before the first byte comes.
  const unread = await bash(`(sleep 2; $IVTLR --help) | true`);
  expect(unread).toEqual({ code: 0, stdout: '', stderr: '' });
  const unseen = await bash(`${evaluation} --json 2> >(true)`);
  expect(unseen.code).toBe(0);
  expect(JSON.parse(unseen.stdout).results[0].samples).toBe(3);
  const fullStderr = await bash(`${evaluation} --json 2> /dev/full`);
  expect(fullStderr.code).toBe(0);
  expect(JSON.parse(fullStderr.stdout).results[0].samples).toBe(3);
});

it('names the file when the disk is full, and leaves no part of it', async () => {
  // A limit on the size of files acts like a full disk anywhere.
  const made = await bash('ulimit -f 20; $IVTLR data make dominoes --rows 200 --out small');
  expect(made.code).toBe(2);
  expect(made.stderr).toMatch(
    /^error: cannot write small\/train-00000-of-00001\.parquet: .*(EFBIG|file too large).*\n$/i,
  );
  expect(readdirSync(join(folder, 'small'))).toEqual([]);
  const predicted = await bash(`${evaluation} --predictions /dev/full`);
  expect([predicted.code, predicted.stderr]).toEqual([
    2,
    expect.stringMatching(/error: cannot write \/dev\/full: ENOSPC/),
  ]);
  const official = await bash(`ulimit -f 1; ${evaluation} --limit 30 --predictions-official answers.json`);
  expect(official.code).toBe(2);
  expect(official.stderr).toMatch(/error: cannot write answers\.json: .*EFBIG/);
  expect(readdirSync(folder).filter((name) => /answers|\.tmp$/.test(name))).toEqual([]);
});

it.each(['/proc/nothing/out', '/dev/null/out'])('refuses an output that cannot stand there: %s', async (out) => {
  const commands = [
    `$IVTLR data make dominoes --rows 1 --out ${out}`,
    `${evaluation} --predictions ${out}/answers.jsonl`,
    `$IVTLR analyze --model ${model} --limit 2 --threads 1 --max-new-tokens 5 --out ${out}`,
    `$IVTLR demo --rows 1 --traces 1 --out ${out}`,
  ];
  for (const command of commands) {
    const { code, stderr } = await bash(`timeout 60 ${command}`);
    expect([command, code]).toEqual([command, 2]);
    expect(stderr).toMatch(new RegExp(`error: cannot make the folder ${out}: .*\n$`));
  }
});

it('keeps what was answered before the disk was full', async () => {
  await bash(`ulimit -f 4; ${evaluation} --limit 60 --predictions some.jsonl`);
  const whole = readFileSync(join(folder, 'some.jsonl'), 'utf8').split('\n').slice(0, -1);
  expect(whole.length).toBeGreaterThan(0);
  for (const line of whole) expect(JSON.parse(line)).toHaveProperty('messages');
  const resumed = await bash(`${evaluation} --limit 60 --predictions some.jsonl --resume --json`);
  expect(resumed.stderr).toContain(`${whole.length} answers are there already`);
  expect(JSON.parse(resumed.stdout).results[0].samples).toBe(60);
});
