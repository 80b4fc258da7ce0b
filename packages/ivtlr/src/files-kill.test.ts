/** Kills a process at every step of writing a folder; `npm test` builds the program first. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { clearLeftovers, wholeFolder } from './files.ts';

const built = new URL('../dist/files.js', import.meta.url).href;
const hook = fileURLToPath(new URL('../../../test/faulty-files.mjs', import.meta.url));

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-kill-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Replaces target by a folder whose two files hold `content`; killed before file call number `kill` if that is not 0. */
function replace(target: string, content: string, kill = 0): NodeJS.Signals | null {
  const script = `const { writeFolderAtomic, writeFileAtomic } = await import(${JSON.stringify(built)});
    writeFolderAtomic(${JSON.stringify(target)}, (f) => { for (const n of ['a', 'b']) writeFileAtomic(f + '/' + n, '${content}'); });`;
  const env = { ...process.env, KILL_AT_CALL: String(kill) };
  return spawnSync(process.execPath, ['--import', hook, '--input-type=module', '-e', script], { env }).signal;
}

const contents = (target: string) => ['a', 'b'].map((name) => readFileSync(join(target, name), 'utf8')).join();

test('a folder that is replaced is whole for every reader, wherever the writer is killed', () => {
  const target = join(folder, 'best');
  const seen = new Set<string>();
  let displaced = 0;
  for (let call = 1; ; call++) {
    rmSync(folder, { recursive: true, force: true });
    expect(replace(target, 'old')).toBeNull();
    const killed = replace(target, 'new', call) === 'SIGKILL';
    if (!existsSync(target)) displaced++;
    seen.add(contents(wholeFolder(target)));
    expect(['old,old', 'new,new']).toContain(contents(wholeFolder(target)));
    clearLeftovers(folder);
    expect(['old,old', 'new,new']).toContain(contents(target));
    expect(readdirSync(folder)).toEqual(['best']);
    if (!killed) break;
    expect(replace(target, 'newer')).toBeNull();
    expect(contents(target)).toBe('newer,newer');
  }
  expect([...seen]).toEqual(['old,old', 'new,new']);
  expect(displaced).toBe(1);
}, 120_000);

test('a name that somebody else gave is left alone', () => {
  const mine = join(folder, 'best.old');
  writeFileSync(mine, 'mine');
  expect(replace(join(folder, 'best'), 'new')).toBeNull();
  clearLeftovers(folder);
  expect(readFileSync(mine, 'utf8')).toBe('mine');
});
