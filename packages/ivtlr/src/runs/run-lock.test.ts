import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { RunLock } from './run-lock.ts';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-lock-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const file = () => join(folder, 'lock');
const own = () => {
  using _lock = new RunLock(folder);
  return JSON.parse(readFileSync(file(), 'utf8'));
};
const write = (owner: unknown) => writeFileSync(file(), typeof owner === 'string' ? owner : JSON.stringify(owner));

it('is held by one at a time, says by whom, and leaves nothing', () => {
  const lock = new RunLock(folder);
  expect(() => new RunLock(folder)).toThrow(
    `${folder} is being trained in by process ${process.pid} on ${hostname()}: wait for it, or choose another folder with --set out=FOLDER`,
  );
  lock[Symbol.dispose]();
  expect(readdirSync(folder)).toEqual([]);
  using _again = new RunLock(folder);
});

it('is taken over from a process that is gone', () => {
  const me = own();
  const gone = [
    { ...me, pid: 2 ** 22 - 7 },
    { ...me, boot: 'another start of the machine' },
    { ...me, started: '1' }, // the pid is another process's now
    '',
    'null',
    '{"pid": -1, "host": 3}',
  ];
  for (const owner of gone) {
    write(owner);
    expect(own().pid, JSON.stringify(owner)).toBe(process.pid);
    expect(existsSync(file())).toBe(false);
  }
});

it('of another machine is believed, and it is said how to remove it', () => {
  write({ ...own(), host: 'elsewhere' });
  expect(() => new RunLock(folder)).toThrow(
    new RegExp(`on elsewhere: .* \\(if that process is gone, remove ${file()}\\)$`),
  );
  expect(existsSync(file())).toBe(true);
});

it('of another machine is taken over within one job of a launcher', () => {
  vi.stubEnv('SLURM_JOB_ID', '7');
  write({ ...own(), host: 'elsewhere' });
  expect(own().job).toBe('slurm 7');
  write({ ...own(), host: 'elsewhere', job: 'slurm 8' });
  expect(() => new RunLock(folder)).toThrow('on elsewhere');
  rmSync(file());
  vi.stubEnv('TORCHELASTIC_RUN_ID', 'none');
  vi.stubEnv('SLURM_JOB_ID', undefined);
  write({ ...own(), host: 'elsewhere' });
  expect(() => new RunLock(folder)).toThrow('on elsewhere');
  vi.unstubAllEnvs();
});

it('says that a folder cannot be made', () => {
  writeFileSync(join(folder, 'file'), '');
  expect(() => new RunLock(join(folder, 'file'))).toThrow(/^cannot make the folder .*file: .*is a file$/);
});
