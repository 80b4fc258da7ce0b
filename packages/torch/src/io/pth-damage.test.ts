/** Damaged files: each gives what the undamaged one holds, or a CheckpointError. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeEach, expect, test } from 'vitest';
import { CheckpointError, liveTensorCount, openPth, scope } from '../index.ts';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'pth-damage-'));
const file = path.join(folder, 'x.pth');
const golden = new URL('../../goldens/pth/state-dict.pth', import.meta.url).pathname;
let baseline: number;

beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => fs.rmSync(folder, { recursive: true }));

const whole = fs.readFileSync(golden);
const contents = (path: string) =>
  scope(() => {
    using source = openPth(path);
    const readable = source.names().filter((key) => key !== 'complex');
    return JSON.stringify([source.skipped, source.names(), readable.map((key) => source.read(key).tolist())]);
  });
const wanted = contents(golden);

/** Either what the undamaged file holds, or a CheckpointError. */
function survives(bytes: Uint8Array): void {
  fs.writeFileSync(file, bytes);
  try {
    expect(contents(file)).toBe(wanted);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
  }
}

test('changed bytes', () => {
  const change = fc.tuple(fc.nat(whole.length - 1), fc.nat(255));
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
      const bytes = Buffer.from(whole);
      for (const [at, value] of changes) bytes[at] = value;
      survives(bytes);
    }),
    { numRuns: 1500 },
  );
});

test('inserted, removed and repeated pieces', () => {
  fc.assert(
    fc.property(fc.nat(whole.length), fc.nat(64), fc.uint8Array({ maxLength: 64 }), (at, removed, inserted) => {
      survives(Buffer.concat([whole.subarray(0, at), inserted, whole.subarray(at + removed)]));
    }),
    { numRuns: 500 },
  );
});
