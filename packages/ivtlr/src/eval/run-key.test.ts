import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { modelFingerprint } from './run-key.ts';

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
