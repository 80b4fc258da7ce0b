/** `ivtlr serve` as a user runs it; `npm test` builds the program first. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { chatBody, isAlive, post, puzzle, until } from '../../../../test/served-model.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-serve-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let living: ReturnType<typeof start> | null = null;
afterEach(() => {
  living?.child.kill('SIGKILL');
  living = null;
});

function start(args: readonly string[]) {
  const child = spawn(process.execPath, [program, 'serve', '--threads', '1', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text: string) => {
      said[name] += text;
    });
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal }));
  });
  return { child, said, ended };
}

async function serve(...args: string[]) {
  living = start(['--port', '0', ...args]);
  const { said } = living;
  await until(() => said.stdout.includes('\n'), `it listens: ${said.stderr}`);
  return { ...living, url: said.stdout.trim() };
}

test('without --model the bundled one answers; logs are JSON without contents; SIGTERM ends it with what is under way', async () => {
  const { url, said, child, ended } = await serve();
  const asked = await puzzle(3);
  const engine = Number(/"engine":(\d+)/.exec(said.stderr)![1]);
  expect(isAlive(engine)).toBe(true);
  const answers = Array.from({ length: 8 }, () => post(url, chatBody(asked)));
  await answers[0];
  child.kill('SIGTERM');
  for (const answer of answers) expect([200, 503]).toContain((await answer).status);
  expect(await ended).toEqual({ code: 0, signal: null });
  expect(isAlive(engine)).toBe(false);
  const lines = said.stderr
    .trimEnd()
    .split('\n')
    .filter((line) => line.startsWith('{'));
  const requests = lines
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter(({ msg }) => msg === 'request');
  expect(requests.length).toBeGreaterThan(0);
  expect(requests[0]).toMatchObject({ method: 'POST', route: '/v1/chat/completions', status: 200 });
  expect(typeof requests[0]!.id).toBe('string');
  expect(said.stderr).not.toContain('which colour');
  expect(said.stderr).not.toContain('base64');
});

test('two SIGTERMs stop at once', async () => {
  const { url, child, ended, said } = await serve('--drain', '600', '--batch', '1');
  const asked = await puzzle(3);
  const answers = Array.from({ length: 60 }, () => post(url, chatBody(asked)).catch(() => null));
  await answers[0];
  child.kill('SIGTERM');
  await until(() => said.stderr.includes('again to stop at once'), 'it drains');
  child.kill('SIGTERM');
  expect(await ended).toEqual({ code: null, signal: 'SIGTERM' });
  await Promise.all(answers);
});

test('the engine ends with a server that is killed', async () => {
  const { child, ended, said } = await serve();
  const engine = Number(/"engine":(\d+)/.exec(said.stderr)![1]);
  child.kill('SIGKILL');
  await ended;
  await until(() => !isAlive(engine), 'the engine has ended');
});

test('keys come from a file', async () => {
  const keys = join(folder, 'keys');
  writeFileSync(keys, '# ours\nsecret-key-1\n\n');
  const { url } = await serve('--api-key-file', keys);
  expect((await fetch(`${url}/v1/models`)).status).toBe(401);
  const headers = { authorization: 'Bearer secret-key-1' };
  expect((await fetch(`${url}/v1/models`, { headers })).status).toBe(200);
});

test.each<[string, string[], RegExp]>([
  ['a model that is not there', ['--model', '/nowhere/model'], /there is no model folder|\/nowhere\/model/],
  ['a file without keys', ['--api-key-file', '/dev/null'], /\/dev\/null/],
  ['runs that are not there', ['--runs', '/nowhere'], /--runs \/nowhere: there is no such folder/],
  ['runs that are a file', ['--runs', '/dev/null'], /--runs \/dev\/null: there is no such folder/],
  ['a port', ['--port', '70000'], /0 to 65535/],
  ['a host of pictures', ['--allow-image-hosts', 'http://example.org'], /example\.org/],
  ['an address that is not here', ['--host', '203.0.113.7', '--port', '0'], /203\.0\.113\.7/],
])('%s is a mistake in one sentence', async (_, args, message) => {
  const { said, ended } = start(args);
  expect((await ended).code).toBe(2);
  expect(said.stderr).toMatch(message);
  expect(said.stderr).not.toContain('    at ');
});
