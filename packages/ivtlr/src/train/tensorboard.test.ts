import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import { crc32c, EventWriter } from './tensorboard.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-events-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Any Python with tensorboard, given by PYTHON; without one the bytes below still hold. */
const python = process.env.PYTHON ?? 'python3';
const hasTensorBoard = spawnSync(python, ['-c', 'import tensorboard'], { stdio: 'ignore' }).status === 0;

describe('event files', () => {
  it('have the checksums of RFC 3720', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
  });

  it('that cannot be written are one sentence', () => {
    expect(() => new EventWriter('/dev/null/events')).toThrow(UserError);
    const writer = new EventWriter(join(folder, 'gone'));
    rmSync(join(folder, 'gone'), { recursive: true });
    expect(() => writer.scalars(1, { 'train/loss': 1 })).toThrow(new RegExp(`^cannot write ${writer.path}: ENOENT`));
  });

  it('are these bytes, which TensorBoard 2.21 reads as steps 1 and 300', () => {
    const writer = new EventWriter(folder, { now: 1_700_000_000_123 });
    writer.scalars(1, { 'train/loss': 2.5, 'train/lr': 1e-3 }, 1_700_000_001_000);
    writer.scalars(300, { 'train/loss': 1.25 }, 1_700_000_002_000);
    expect(writer.path).toMatch(/events\.out\.tfevents\.1700000000\.123\./);
    const expected =
      '1800000000000000a37f4b22' +
      '093bdf0740fc54d9411a0d627261696e2e4576656e743a32' +
      '06674b6e' +
      '31000000000000009d8383e9' +
      '0900004040fc54d94110012a240a110a0a747261696e2f6c6f737315000020400a0f0a08747261696e2f6c72156f12833a' +
      'd4fd72e1' +
      '2100000000000000017becf6' +
      '0900008040fc54d94110ac022a130a110a0a747261696e2f6c6f7373150000a03f' +
      '7b118232';
    expect(readFileSync(writer.path).toString('hex')).toBe(expected);
  });

  it.runIf(hasTensorBoard)('are read by TensorBoard, repeated steps of a resumed run once', () => {
    const first = new EventWriter(folder, { now: 1_700_000_000_123 });
    for (const step of [1, 2, 3]) first.scalars(step, { 'train/loss': step + 0.5 });
    const resumed = new EventWriter(folder, { now: 1_700_000_009_000, purgeFrom: 3 });
    for (const step of [3, 4]) resumed.scalars(step, { 'train/loss': step + 0.25, 'validation/accuracy': 0.5 });
    const script = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
`;
    const { stdout, stderr } = spawnSync(python, ['-c', script, folder], { encoding: 'utf8' });
    expect(JSON.parse(stdout || `"${stderr}"`)).toEqual({
      'train/loss': [
        [1, 1.5],
        [2, 2.5],
        [3, 3.25],
        [4, 4.25],
      ],
      'validation/accuracy': [
        [3, 0.5],
        [4, 0.5],
      ],
    });
  });
});
