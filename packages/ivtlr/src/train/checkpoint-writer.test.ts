/** Checkpoints written by a thread; `npm test` builds the program first, whose compiled thread is used here. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { HostMemory, liveTensorCount, openSafetensors, randn, scope, type Tensor, tensor } from '@ivtlr/torch';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import { type FileContent, jsonFile, writeFiles } from '../file-contents.ts';
import { clearLeftovers } from '../files.ts';
import { checkpointFolder, checkpointRoot } from './checkpoint-names.ts';
import { type CheckpointPeers, CheckpointWriter } from './checkpoint-writer.ts';

let out = '';
let baseline = 0;
beforeEach(() => {
  out = mkdtempSync(join(tmpdir(), 'ivtlr-writer-'));
  baseline = liveTensorCount();
});
afterEach(() => {
  rmSync(out, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const file = (name: string, tensors: Record<string, Tensor>): FileContent => ({
  name,
  content: { tensors: new Map(Object.entries(tensors)), metadata: { format: 'pt' } },
});
const latest = () => readFileSync(join(checkpointRoot(out), 'latest'), 'utf8').trim();
const listed = () => readdirSync(checkpointRoot(out)).sort();

describe('in one process', () => {
  it('the files are those of a write at once, although the tensors change while they are written', async () => {
    using weight = randn([1000, 300]);
    using narrow = weight.to('bfloat16');
    using transposed = weight.transpose(0, 1);
    const files = [
      file('model.safetensors', { weight, narrow, transposed }),
      jsonFile('state.json', { step: 3, text: 'ü' }),
      { name: 'tokenizer.json', content: new Uint8Array([1, 2, 3]) },
    ];
    const wanted = join(out, 'wanted');
    mkdirSync(wanted);
    writeFiles(wanted, files);
    const writer = new CheckpointWriter(out, 2);
    await writer.begin();
    writer.start(3, files);
    writer.copied();
    weight.zero_();
    narrow.zero_();
    expect(writer.latest).toBeNull();
    await writer.finish();
    const folder = checkpointFolder(out, 3);
    expect(writer.latest).toBe(folder);
    expect(readdirSync(folder).sort()).toEqual(readdirSync(wanted).sort());
    for (const name of readdirSync(wanted))
      expect(readFileSync(join(folder, name)).equals(readFileSync(join(wanted, name)))).toBe(true);
  });

  it('each waits for the one before, only the newest stay, and one of the same step is replaced', async () => {
    const writer = new CheckpointWriter(out, 2);
    for (const [step, text] of [
      [1, 'a'],
      [2, 'b'],
      [3, 'c'],
      [3, 'd'],
    ] as const) {
      await writer.begin();
      writer.start(step, [{ name: 'text', content: text }]);
      expect(() => writer.start(step, [])).toThrow(/start without begin/);
    }
    await writer.finish();
    expect(listed()).toEqual(['latest', 'step-00000002', 'step-00000003']);
    expect(readFileSync(join(checkpointFolder(out, 3), 'text'), 'utf8')).toBe('d');
  });

  it('is completed by looking now and then', async () => {
    const writer = new CheckpointWriter(out, 1);
    await writer.begin();
    writer.start(1, [{ name: 'text', content: 'a' }]);
    while (writer.latest === null) {
      writer.poll();
      await setTimeout(5);
    }
    expect(latest()).toBe('step-00000001');
  });

  it('says once and in one sentence why it failed, and the checkpoint before stays in force', async () => {
    const writer = new CheckpointWriter(out, 1);
    await writer.begin();
    writer.start(1, [{ name: 'text', content: 'a' }]);
    await writer.begin();
    writer.start(2, [
      { name: 'fine', content: 'b' },
      { name: 'no-such-folder/text', content: 'b' },
    ]);
    await expect(writer.finish()).rejects.toThrow(/^cannot write the checkpoint .*step-00000002: ENOENT[^\n]*$/);
    await writer.finish();
    expect(latest()).toBe('step-00000001');
    expect(listed()).toEqual(['latest', 'step-00000001']);
    await writer.begin();
    writer.start(3, [{ name: 'text', content: 'c' }]);
    await writer.close();
    expect(latest()).toBe('step-00000003');
  });
});

describe('with several processes', () => {
  /** Peers of one test, which share what has been written. */
  function peers(rank: number, world: number, done: Map<number, Set<number>>): CheckpointPeers {
    const of = (step: number) => done.get(step) ?? done.set(step, new Set()).get(step)!;
    return {
      rank,
      world,
      written: (step) => void of(step).add(rank),
      failed: () => {},
      allWritten: (step) => of(step).size === world,
    };
  }

  it('the folder is complete when all have written, and not before', async () => {
    const done = new Map<number, Set<number>>();
    const writers = [0, 1, 2].map((rank) => new CheckpointWriter(out, 1, null, peers(rank, 3, done)));
    const part = (rank: number, step: number) => [{ name: `part-${rank}`, content: `${step}` }];
    for (const step of [1, 2]) {
      await Promise.all(writers.map((writer) => writer.begin()));
      for (const [rank, writer] of writers.entries()) writer.start(step, part(rank, step));
      await Promise.all(writers.map((writer) => writer.finish()));
      expect(latest()).toBe(`step-0000000${step}`);
      expect(readdirSync(checkpointFolder(out, step)).sort()).toEqual(['part-0', 'part-1', 'part-2']);
    }
    expect(listed()).toEqual(['latest', 'step-00000002']);
    // One process dies before its part is written.
    for (const [rank, writer] of writers.entries()) {
      await writer.begin();
      if (rank !== 1) writer.start(3, part(rank, 3));
    }
    await writers[2]!.finish();
    await writers[0]!.close();
    expect(writers[0]!.latest).toBe(checkpointFolder(out, 2));
    expect([latest(), existsSync(checkpointFolder(out, 3))]).toEqual(['step-00000002', false]);
    clearLeftovers(checkpointRoot(out));
    expect(listed()).toEqual(['latest', 'step-00000002']);
  });

  it('what the peers say of a process that failed is told', async () => {
    const mine = peers(0, 2, new Map());
    const failing = {
      ...mine,
      allWritten: () => {
        throw new UserError('process 1 of 2 failed');
      },
    };
    const writer = new CheckpointWriter(out, 1, null, failing);
    await writer.begin();
    writer.start(1, [{ name: 'text', content: 'a' }]);
    await expect(writer.finish()).rejects.toThrow('process 1 of 2 failed');
    expect(listed()).toEqual(['step-00000001.partial']);
  });
});

const program = fileURLToPath(new URL('../../../../test/write-checkpoint.mjs', import.meta.url));
const hook = fileURLToPath(new URL('../../../../test/faulty-files.mjs', import.meta.url));

/** Writes the checkpoint of a step in a process of its own. Options of the environment reach its threads too. */
function written(step: number, faults: Record<string, string> = {}) {
  const env = { ...process.env, NODE_OPTIONS: `--import ${hook}`, ...faults };
  return spawnSync(process.execPath, [program, out, String(step)], { env, encoding: 'utf8' });
}

/** Which step the checkpoint in force is of; its files must be whole and belong together. */
function inForce(): number {
  const folder = join(checkpointRoot(out), latest());
  const { step } = JSON.parse(readFileSync(join(folder, 'state.json'), 'utf8')) as { step: number };
  scope(() => {
    using source = openSafetensors(join(folder, 'model.safetensors'));
    expect(source.read('weight').eq(step).all().item()).toBe(1);
  });
  return step;
}

describe('a process that is killed', () => {
  it('at any call of the background write leaves the checkpoint before, or the new one whole', () => {
    const results: number[] = [];
    const killed = (path: string, call: number) => {
      rmSync(checkpointRoot(out), { recursive: true, force: true });
      expect(written(1).status).toBe(0);
      const { signal, status, stderr } = written(2, { FAULT_PATH: path, KILL_AT_CALL: String(call) });
      expect(signal ?? status, stderr).toBe(signal === null ? 0 : 'SIGKILL');
      results.push(inForce());
      clearLeftovers(checkpointRoot(out));
      expect(inForce()).toBe(results.at(-1));
      expect(listed().filter((name) => /partial|displaced/.test(name))).toEqual([]);
      return signal === 'SIGKILL';
    };
    // The thread that writes the files, at each of its calls.
    let call = 1;
    while (killed('step-00000002.partial', call)) call++;
    expect(call).toBeGreaterThan(8);
    expect(results).toEqual([...Array(call - 1).fill(1), 2]);
    // The thread that makes them the latest checkpoint: while the pointer is written, and before the old checkpoint is removed.
    for (const n of [1, 2, 3, 4]) expect(killed('.tmp', n)).toBe(true);
    expect(results.slice(-4)).toEqual([1, 1, 1, 1]);
    expect(killed('step-00000001', 1)).toBe(true);
    expect(results.at(-1)).toBe(2);
  }, 240_000);
});

describe('a full disk', () => {
  const mounted = (size: string) =>
    spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', out]).status === 0;
  const canMount = (() => {
    const place = mkdtempSync(join(tmpdir(), 'ivtlr-mount-'));
    const status = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', place]).status;
    if (status === 0) spawnSync('umount', [place]);
    rmSync(place, { recursive: true, force: true });
    return status === 0;
  })();

  it.skipIf(!canMount)(
    'gives its room back, is told, and leaves the checkpoint before (needs the right to mount)',
    async () => {
      expect(mounted('3m')).toBe(true);
      try {
        const writer = new CheckpointWriter(out, 2);
        using small = tensor([1, 2, 3]);
        using large = randn([1_000_000]);
        await writer.begin();
        writer.start(1, [file('model.safetensors', { small })]);
        await writer.begin();
        writer.start(2, [file('model.safetensors', { small }), file('optimizer.safetensors', { large })]);
        await expect(writer.finish()).rejects.toThrow(/^cannot write the checkpoint .*step-00000002: ENOSPC[^\n]*$/);
        expect(listed()).toEqual(['latest', 'step-00000001']);
        await writer.begin();
        writer.start(3, [file('model.safetensors', { small })]);
        await writer.finish();
        expect(latest()).toBe('step-00000003');
      } finally {
        spawnSync('umount', [out]);
      }
    },
  );

  it('ends the process with what the disk said', () => {
    expect(written(1).status).toBe(0);
    const { status, stderr } = written(2, { FAULT_PATH: 'step-00000002', FULL_DISK_AFTER: '1000' });
    expect(status).toBe(1);
    expect(stderr).toMatch(/cannot write the checkpoint .*step-00000002: ENOSPC/);
    expect(inForce()).toBe(1);
    expect(listed()).toEqual(['latest', 'step-00000001']);
  });
});

it('copies made beforehand are written as they are', async () => {
  const writer = new CheckpointWriter(out, 1);
  const memory = await writer.begin();
  expect(memory).toBeInstanceOf(HostMemory);
  using weight = tensor([1, 2, 3]);
  const tensors = new Map([['weight', memory.copy(weight)]]);
  weight.zero_();
  writer.start(1, [{ name: 'model.safetensors', content: { tensors, metadata: {} } }]);
  await writer.finish();
  scope(() => {
    using source = openSafetensors(join(writer.latest!, 'model.safetensors'));
    expect(source.read('weight').tolist()).toEqual([1, 2, 3]);
  });
});
