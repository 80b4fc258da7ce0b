import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { hasInput } from './index.ts';

test('hasInput: something to read, its end, neither', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ivtlr-fifo-'));
  const fifo = join(folder, 'fifo');
  execFileSync('mkfifo', [fifo]);
  const read = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  const write = openSync(fifo, constants.O_WRONLY);
  try {
    expect(hasInput(read)).toBe(false);
    writeSync(write, 'x');
    expect(hasInput(read)).toBe(true);
    readSync(read, Buffer.alloc(8));
    expect(hasInput(read)).toBe(false);
    closeSync(write);
    expect(hasInput(read)).toBe(true);
  } finally {
    closeSync(read);
    rmSync(folder, { recursive: true });
  }
});
