import { afterEach, describe, expect, it, vi } from 'vitest';
import { UserError } from '../errors.ts';
import { buildProgram, report, run } from './main.ts';

function capture() {
  let out = '';
  let err = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += text;
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    err += text;
    return true;
  });
  return { out: () => out, err: () => err };
}

afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

describe('run', () => {
  it('prints help without arguments and the version of package.json', async () => {
    const output = capture();
    expect(await run([])).toBe(0);
    expect(output.out()).toMatch(/Usage: ivtlr .*doctor/s);
    expect(await run(['--version'])).toBe(0);
    expect(output.out()).toMatch(/\n\d+\.\d+\.\d+\n$/);
    expect(await run(['doctor', '--help'])).toBe(0);
  });

  it('suggests the command that was meant and exits with 2', async () => {
    const output = capture();
    expect(await run(['docter'])).toBe(2);
    expect(output.err()).toMatch(/unknown command 'docter'\n\(Did you mean doctor\?\)/);
    expect(await run(['doctor', '--jsn'])).toBe(2);
    expect(output.err()).toMatch(/Did you mean --json/);
  });

  it('shows control characters of a wrong value as text', async () => {
    const output = capture();
    for (const args of [['eval', '--model', 'm', '--limit', '\x1b[31m7'], ['doctor', '--\x1b[31m'], ['\x1b[31m']])
      expect(await run(args)).toBe(2);
    expect(output.err().match(/\\x1b\[31m/g)?.length).toBe(3);
    expect(output.err()).not.toContain('\x1b');
  });

  it('reports the machine as JSON', async () => {
    const output = capture();
    expect(await run(['doctor', '--json'])).toBe(0);
    const { healthy, checks } = JSON.parse(output.out());
    expect(healthy).toBe(true);
    expect(checks.find((check: { name: string }) => check.name === 'self-test cpu').value).toMatch(
      /gradient are right/,
    );
  });
});

describe('report', () => {
  it('prints user errors as one line, exit code 2', () => {
    const output = capture();
    expect(report(new UserError('cat.png: not found'), false)).toBe(2);
    expect(output.err()).toBe('error: cat.png: not found\n');
  });

  it('prints unexpected errors with a hint, with --debug the stack, exit code 1', () => {
    const output = capture();
    expect(report(new TypeError('x is undefined'), false)).toBe(1);
    expect(output.err()).toBe(
      'unexpected error: TypeError: x is undefined\nrun the same command with --debug for the whole stack\n',
    );
    expect(report(new TypeError('x is undefined'), true)).toBe(1);
    expect(output.err()).toMatch(/main\.test\.ts/);
  });
});

it('gives every command a description', () => {
  for (const command of buildProgram().commands) expect(command.description()).not.toBe('');
});
