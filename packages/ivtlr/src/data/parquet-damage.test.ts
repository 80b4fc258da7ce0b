/** Random damage to a Parquet file: whatever happens, it is a UserError or some rows, never a hang, a crash or an error of another kind. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { Random } from '../random.ts';
import { m3cot } from '../tasks/m3cot/m3cot.ts';
import { streamSamples } from '../tasks/read-samples.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-damage-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const rounds = Number(process.env.ROUNDS ?? 120);

test.each(['snappy', 'zstd', 'gzip', 'none'])('compression %s', async (codec) => {
  const whole = readFileSync(new URL(`goldens/m3cot-${codec}.parquet`, import.meta.url));
  const path = join(folder, `${codec}.parquet`);
  let refused = 0;
  for (let round = 0; round < rounds; round++) {
    const random = new Random(17, round);
    const bytes = Uint8Array.from(whole);
    for (let hit = 0; hit <= round % 4; hit++) bytes[random.below(bytes.length)] = random.below(256);
    writeFileSync(path, round % 10 === 0 ? bytes.subarray(0, random.below(bytes.length)) : bytes);
    for (const skip of [false, true]) {
      const options = skip ? { onBad: () => {} } : {};
      try {
        for await (const sample of streamSamples(path, m3cot, options)) expect(sample.images[0]).toBeDefined();
      } catch (error) {
        expect(error, `round ${round}: ${(error as Error).stack}`).toBeInstanceOf(UserError);
        expect((error as Error).message).toContain(path);
        expect((error as Error).message).not.toMatch(/undefined|NaN/);
        refused++;
      }
    }
  }
  expect(refused).toBeGreaterThan(rounds / 10);
});
