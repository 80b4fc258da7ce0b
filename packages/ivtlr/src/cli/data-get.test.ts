/** Downloads by the program itself. Needs the compiled package, which `npm test` builds first. */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Hub, startHub } from '../../../../test/hub-server.ts';

const program = join(import.meta.dirname, '../../bin/ivtlr.mjs');
const name = 'data/train-00000-of-00001.parquet';
const bytes = randomBytes(2_000_000);
let hub: Hub;
let cache = '';
beforeEach(async () => {
  hub = await startHub({ [name]: bytes, 'README.md': Buffer.from('# Data\n') });
  hub.repo = 'LightChen2333/M3CoT';
  cache = mkdtempSync(join(tmpdir(), 'ivtlr-get-'));
});
afterEach(async () => {
  await hub.close();
  rmSync(cache, { recursive: true, force: true });
});

function get(env: Record<string, string> = {}): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [program, 'data', 'get', 'm3cot', '--dir', cache], {
    env: { ...process.env, HF_ENDPOINT: hub.url, HF_TOKEN: 'hf_x', ...env },
  });
  const said = { out: '', err: '' };
  child.stdout.on('data', (text) => {
    said.out += text;
  });
  child.stderr.on('data', (text) => {
    said.err += text;
  });
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, ...said })));
}

test('two processes that want the same data both get it, and fetch it once', async () => {
  // Cut connections hold the one that is first long enough for the other to come.
  Object.assign(hub.trouble, { cutAfter: 300_000, cuts: 4 });
  const both = await Promise.all([get(), get()]);
  for (const { code, out, err } of both) {
    expect(err).toContain('LightChen2333/M3CoT (CC BY-SA 4.0): 2 files, 2 MB');
    expect(code).toBe(0);
    expect(readFileSync(join(out.trim(), name)).equals(bytes)).toBe(true);
  }
  const hash = createHash('sha256').update(bytes).digest('hex');
  expect(
    readdirSync(join(cache, 'datasets--LightChen2333--M3CoT/blobs')).filter((file) => file.startsWith(hash)),
  ).toEqual([hash]);
  const started = hub.log.filter(
    (line) => line.includes('/resolve/') && line.includes('.parquet') && !line.includes('bytes='),
  );
  expect(started.length).toBe(1);
});

test('a token that cannot be sent is said once, and not shown', async () => {
  const { code, err } = await get({ HF_TOKEN: 'hf_secret\nX-More: 1' });
  expect(code).toBe(2);
  expect(err).toMatch(/^error: the token in HF_TOKEN holds a line break/);
  expect(err.trim().split('\n').length).toBe(1);
  expect(err).not.toContain('secret');
  expect(hub.log).toEqual([]);
});
