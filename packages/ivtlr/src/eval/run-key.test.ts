import { mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { fingerprint, modelFingerprint } from './run-key.ts';

test('a loop of links in a model folder is named; a link to nothing is passed over', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ivtlr-key-'));
  try {
    writeFileSync(join(folder, 'config.json'), '{}');
    const before = modelFingerprint([folder]);
    symlinkSync('nothing', join(folder, 'gone.json'));
    expect(modelFingerprint([folder])).toBe(before);
    symlinkSync('loop.json', join(folder, 'loop.json'));
    expect(() => modelFingerprint([folder])).toThrow(UserError);
    expect(() => modelFingerprint([folder])).toThrow(/cannot read .*loop\.json: ELOOP/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a copy of a large file counts as the same where copies do, and other contents do not', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ivtlr-key-'));
  try {
    const file = join(folder, 'weights.safetensors');
    const bytes = Buffer.alloc(17 * 2 ** 20, 1);
    writeFileSync(file, bytes);
    const [exact, loose] = [fingerprint([file]), fingerprint([file], true)];
    utimesSync(file, 1, 1);
    expect(fingerprint([file])).not.toBe(exact);
    expect(fingerprint([file], true)).toBe(loose);
    writeFileSync(file, bytes.fill(2, bytes.length - 100));
    expect(fingerprint([file], true)).not.toBe(loose);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
