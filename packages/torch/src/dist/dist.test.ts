import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';
import { type RankOptions, runRanks, startRanks } from '../../../../test/ranks.ts';
import { empty, full, randn, scope, type Tensor, zeros } from '../core/index.ts';
import * as ops from '../ops.gen.ts';
import { distributedEnvironment, setBlockPool, setStorageBytes } from './index.ts';

const script = fileURLToPath(new URL('./ranks.mjs', import.meta.url));
const last = (stdout: string) => JSON.parse(stdout.trim().split('\n').at(-1)!);

/** What each rank printed; none of them may fail or write to stderr. */
async function results(world: number, name: string, payload: object = {}, options: RankOptions = {}) {
  const outcomes = await runRanks(world, script, { name, ...payload }, options);
  for (const { code, stderr } of outcomes) expect([code, stderr]).toEqual([0, '']);
  return outcomes.map(({ stdout }) => last(stdout));
}
const range = (count: number) => Array.from({ length: count }, (_, i) => i);
const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);

describe('collectives', () => {
  const dtypes = ['float32', 'float64', 'float16', 'bfloat16', 'int64', 'int32', 'int8', 'uint8'];
  test.for([2, 3, 4])('give what arithmetic gives with %i ranks, in every dtype', async (n) => {
    const all = await results(n, 'values', { dtypes });
    const ranks = range(n);
    const mine = (r: number) => [r + 1, 2 * r, 3];
    const columns = (combine: (values: number[]) => number) =>
      range(3).map((i) => combine(ranks.map((r) => mine(r)[i]!)));
    const part = (r: number) => [2 * r, 2 * r + 1].map((i) => sum(ranks.map((q) => (q + 1) * (i % 5))));
    for (const [r, result] of all.entries())
      for (const dtype of dtypes) {
        expect(result[dtype], dtype).toMatchObject({
          sum: columns(sum),
          same: columns(sum),
          max: columns((values) => Math.max(...values)),
          min: columns((values) => Math.min(...values)),
          product: columns((values) => values.reduce((a, b) => a * b)),
          gathered: ranks.flatMap(mine),
          gatheredInto: ranks.flatMap(mine),
          scattered: part(r),
          scatteredInto: part(r),
          sent: mine(n - 1),
          exchanged: ranks.map((q) => 10 * q + r),
          kept: mine(r),
        });
        if (result[dtype].average)
          for (const [i, value] of columns(sum).entries())
            expect(Math.abs(result[dtype].average[i] - value / n)).toBeLessThan(dtype === 'bfloat16' ? 0.02 : 2e-3);
      }
  });

  test.for([
    [2, '1'],
    [3, '1'],
    [3, '0'],
  ] as const)('of large tensors with %i ranks, reading from memory: %s', async ([n, reads]) => {
    const may = spawnSync(process.execPath, [script, JSON.stringify({ name: 'reads' })], { encoding: 'utf8' });
    const payload = { dtypes: ['float32', 'bfloat16', 'int64', 'uint8'] };
    for (const { results: all, read } of await results(n, 'large', payload, { env: { IVTLR_READ_PEERS: reads } })) {
      for (const [dtype, result] of Object.entries(all))
        expect(result, dtype).toEqual({ gathered: true, scattered: true, fresh: true, kept: true, reduced: true });
      expect(read > 0).toBe(reads === '1' && last(may.stdout));
    }
  });

  test('take lengths that differ, nothing at all, and a scalar', async () => {
    const all = await results(3, 'uneven');
    for (const [rank, { gathered, exchanged, empty, scalar }] of all.entries()) {
      expect(gathered).toEqual(range(3).map((r) => [[2 * r, 3], new Array(6 * r).fill(r + 1)]));
      expect(exchanged).toEqual(range(3).flatMap((r) => new Array(rank + 1).fill(r)));
      expect([empty, scalar]).toEqual([[0], 6]);
    }
  });

  test('refuse at once what Gloo cannot do, and go on', async () => {
    for (const refusals of await results(2, 'refusals')) {
      expect(refusals.map(({ message }: { message: string }) => message)).toEqual([
        expect.stringMatching(/^TorchError: .*all_reduce: counts: tensors of int16 cannot be sent .* int32/),
        expect.stringMatching(/^TorchError: .*tensors of bool cannot be sent .* uint8/),
        expect.stringMatching(/^TorchError: .*an average of int64 is not defined/),
        expect.stringMatching(/^TorchError: .*reduce_scatter_tensor: 3 rows cannot be shared equally among 2 ranks/),
      ]);
      for (const { seconds } of refusals) expect(seconds).toBeLessThan(2);
    }
  });

  test('run at once, and can be waited for twice', async () => {
    for (const values of await results(3, 'asynchronous'))
      expect(values).toEqual([...range(20).map((i) => 3 + 3 * i), 3]);
  });

  test('work among some of the ranks', async () => {
    const all = await results(4, 'subgroups');
    for (const [rank, result] of all.entries()) {
      const ranks = rank % 2 === 0 ? [0, 2] : [1, 3];
      expect(result).toEqual({ none: true, ranks, rank: Math.floor(rank / 2), sum: sum(ranks), sent: ranks[1] });
    }
  });

  test('10,000 of them leave no handle and no memory', async () => {
    for (const { handles, bytes } of await results(2, 'growth')) {
      expect(handles).toBe(0);
      expect(bytes).toBeLessThan(20e6);
    }
  });

  test('a wait takes no time of the processor', async () => {
    const [, waiting] = await results(2, 'idle');
    expect(waiting).toBeLessThan(0.5);
  });
});

test('the store is shared', async () => {
  const all = await results(3, 'store');
  for (const [rank, result] of all.entries())
    expect(result).toEqual({
      text: `value ${(rank + 1) % 3}`,
      bytes: [0, 255, rank],
      count: 6,
      check: [true, false],
      removed: [true, false],
      late: { message: expect.stringMatching(/^TorchError: Store.get: /), seconds: expect.any(Number) },
    });
});

test('a process leaves the group and joins the next one on the same port', async () => {
  expect(await results(3, 'again')).toEqual(new Array(3).fill(range(5).map((i) => 3 + 3 * i)));
});

describe('failures', () => {
  test.for([
    ['SIGKILL', 1],
    ['SIGKILL', 0],
    ['SIGSTOP', 1],
    ['SIGSTOP', 0],
    ['SIGKILL', 1, 'reduceScatter'],
    ['SIGSTOP', 1, 'reduceScatter'],
  ] as const)('%s of rank %i ends the others within the timeout', async ([signal, victim, collective]) => {
    const large = collective && { collective, elements: 3_000_000 };
    await using group = await startRanks(3, script, { name: 'lost', timeout: 6, ...large }, { timeout: 40 });
    const name = collective ? 'reduce_scatter' : 'all_reduce';
    await Promise.all(group.ranks.map((rank) => rank.printed('running')));
    const started = performance.now();
    group.ranks[victim]!.process.kill(signal);
    for (const { rank, outcome } of group.ranks) {
      if (rank === victim) continue;
      const { stdout, stderr, code } = await outcome;
      expect([code, stderr]).toEqual([0, '']);
      const { message } = last(stdout);
      expect(message).toMatch(
        new RegExp(`^DistributedError: .*rank ${rank}: ${name} \\(gradients of layer 3\\) failed after [\\d.]+ s: `),
      );
      const storeGone = 'serves the store \\(rank 0, or the launcher\\) is gone';
      const missing = 'ranks? ([0-9], )*1(, [0-9])* do(es)? not answer';
      // Rank 2 may hear of it only when rank 0 has ended, who names rank 1.
      const wanted = victim === 0 ? storeGone : rank === 0 ? missing : `${missing}|${storeGone}`;
      expect(message).toMatch(new RegExp(wanted));
    }
    expect(performance.now() - started).toBeLessThan(signal === 'SIGKILL' ? 12_000 : 22_000);
  });

  test('a rank that aborts tells the others why', async () => {
    const [first, second, third] = await results(3, 'aborts', { timeout: 60 }, { timeout: 40 });
    expect(second).toBe('aborted');
    for (const { message, seconds } of [first, third]) {
      expect(message).toMatch(/end of step 7.*: rank 1 failed: disk full/);
      expect(seconds).toBeLessThan(15);
    }
  });

  test('rank 0 that leaves early is missed at once', async () => {
    const [, ...others] = await results(3, 'leaves', { timeout: 60 }, { timeout: 40 });
    for (const { message } of others) expect(message).toMatch(/serves the store .* is gone/);
  });

  test('a rank that never comes is named', async () => {
    const options = { timeout: 3 };
    const env = (rank: number) => (rank === 2 ? { MASTER_ADDR: '' } : {});
    const outcomes = await runRanks(3, script, { name: 'join', options }, { env, timeout: 40 });
    expect(last(outcomes[2]!.stdout).message).toMatch(/^RangeError: the environment variable MASTER_ADDR is missing/);
    for (const { stdout, stderr } of outcomes.slice(0, 2)) {
      expect(last(stdout).message).toMatch(
        /^DistributedError: .*initProcessGroup failed after .*: rank 2 does not answer/,
      );
      expect(stderr).toBe('');
    }
  });

  test('no store, or its port taken', async () => {
    const { createServer } = await import('node:net');
    const server = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as { port: number };
    const env = { MASTER_PORT: String(port) };
    const [taken] = await runRanks(1, script, { name: 'join', options: { timeout: 3 } }, { env });
    server.close();
    expect(last(taken!.stdout).message).toMatch(
      /rank 0: cannot serve the store at .*is the port \(MASTER_PORT\) taken/,
    );
    const alone = { RANK: '1', WORLD_SIZE: '2', MASTER_PORT: String(port) };
    const [lonely] = await runRanks(1, script, { name: 'join', options: { timeout: 2 } }, { env: alone });
    expect(last(lonely!.stdout).message).toMatch(
      /rank 1: the store at .* was not reached within 2 s; is rank 0 running\?/,
    );
    expect(taken!.stderr + lonely!.stderr).toBe('');
  });
});

test('the environment is read, and nonsense refused by name', () => {
  const good = { RANK: '1', WORLD_SIZE: '4', MASTER_ADDR: 'host', MASTER_PORT: '29500' };
  expect(distributedEnvironment({})).toBe(null);
  expect(distributedEnvironment(good)).toEqual({
    ...{ rank: 1, worldSize: 4, localRank: 1, localWorldSize: 4, masterAddress: 'host', masterPort: 29500 },
  });
  for (const [name, value] of [
    ['RANK', '4'],
    ['RANK', '-1'],
    ['RANK', 'one'],
    ['RANK', ''],
    ['WORLD_SIZE', '0'],
    ['WORLD_SIZE', undefined],
    ['LOCAL_RANK', '1.5'],
    ['LOCAL_WORLD_SIZE', '5'],
    ['MASTER_ADDR', undefined],
    ['MASTER_PORT', '0'],
    ['MASTER_PORT', '70000'],
    ['MASTER_PORT', undefined],
  ] as const)
    expect(() => distributedEnvironment({ ...good, [name]: value }), `${name}=${value}`).toThrow(name);
});

test('memory that buffers are given one after the other goes back to the system', () => {
  scope(() => {
    const bytes = 20 * 2 ** 20;
    // A freed block of this size makes the heap serve such requests itself from then on.
    empty([31 * 2 ** 18]).dispose();
    const buffers = range(40).map(() => empty([bytes / 4]));
    for (const buffer of buffers) setStorageBytes(buffer, 0);
    const before = process.memoryUsage.rss();
    const small: Tensor[] = [];
    let most = 0;
    for (const buffer of buffers) {
      setStorageBytes(buffer, bytes);
      buffer.fill_(1);
      small.push(zeros([16]), zeros([64]));
      most = Math.max(most, process.memoryUsage.rss() - before);
      setStorageBytes(buffer, 0);
    }
    expect(most).toBeLessThan(3 * bytes);
    expect(small.length).toBe(80);
  });
});

describe('setBlockPool', () => {
  const bytes = 2 ** 20;
  const filled = (value: number) => full([bytes / 4], value);

  afterEach(() => setBlockPool(false));

  test('freed tensors leave no gaps between those that stay', () =>
    scope(() => {
      setBlockPool(true);
      const before = process.memoryUsage.rss();
      const [kept, freed]: [Tensor[], Tensor[]] = [[], []];
      for (let i = 0; i < 60; i++) {
        freed.push(filled(i));
        kept.push(full([8192], i));
      }
      const most = process.memoryUsage.rss() - before;
      for (const tensor of freed) tensor.dispose();
      // Other sizes take the place of what has been freed.
      const others = range(50).map((i) => full([bytes / 4 + 1024], i));
      expect(process.memoryUsage.rss() - before - most).toBeLessThan(10 * bytes);
      for (const tensor of others) tensor.dispose();
      setBlockPool(false);
      expect(most).toBeGreaterThan(60 * bytes);
      expect(process.memoryUsage.rss() - before).toBeLessThan(20 * bytes);
      expect(kept.map((tensor) => tensor.sum().item())).toEqual(range(60).map((i) => 8192 * i));
    }));

  test('with bytes that may wait, so much is kept for tensors of about the same size, and no more', () =>
    scope(() => {
      setBlockPool(true, 8 * bytes);
      const before = process.memoryUsage.rss();
      const held = range(40).map((i) => filled(i));
      const most = process.memoryUsage.rss() - before;
      for (const tensor of held) tensor.dispose();
      const after = process.memoryUsage.rss() - before;
      expect(most).toBeGreaterThan(38 * bytes);
      expect(after).toBeLessThan(14 * bytes);
      // Tensors of up to an eighth less take the memory that waits.
      const smaller = range(7).map((i) => full([bytes / 4 - 100 * i], i));
      expect(process.memoryUsage.rss() - before - after).toBeLessThan(4 * bytes);
      expect(smaller.map((tensor) => [tensor.min().item(), tensor.max().item()])).toEqual(range(7).map((i) => [i, i]));
    }));

  test('what was taken before it is switched on or off is whole and goes back to where it came from', () =>
    scope(() => {
      const early = filled(1);
      setBlockPool(true);
      const pooled = range(5).map((i) => filled(i));
      pooled[2]!.dispose();
      const again = filled(7);
      early.dispose();
      setBlockPool(false);
      const late = filled(9);
      pooled[3]!.dispose();
      const all = [pooled[0]!, pooled[1]!, pooled[4]!, again, late];
      expect(all.map((tensor) => [tensor.min().item(), tensor.max().item()])).toEqual(
        [0, 1, 4, 7, 9].map((value) => [value, value]),
      );
      // Operators that need room for intermediate results take it from the pool, too.
      setBlockPool(true);
      const sorted = ops.sort(randn([2 ** 16]))[0].toNumbers();
      expect(sorted).toEqual(sorted.toSorted((a, b) => a - b));
    }));
});
