/** `ivtlr train --processes`, as a user runs it; `npm test` builds it first. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import { Launching, TOTAL, until } from '../../../../test/sharded/launching.ts';

const runs = new Launching();
afterAll(() => runs[Symbol.dispose]());

const start = (out: string, ...more: string[]) => runs.start(runs.train(out, '--set', 'tensorboard=true', ...more));
const log = (out: string, rank: number) => join(runs.out(out), 'logs', `rank-${rank}.log`);
const pidsOf = (out: string, rank: number) =>
  existsSync(log(out, rank))
    ? [...readFileSync(log(out, rank), 'utf8').matchAll(/pid (\d+)/g)].map(([, pid]) => Number(pid))
    : [];
const stepsOf = (out: string) => runs.steps(out);
const weights = (out: string) => readFileSync(join(runs.out(out), 'model', 'adapter_model.safetensors'));
const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test('one progress, one set of files, a log for each', async () => {
  const { code, stdout, stderr } = await start('plain', '--processes', '3', '--json').ended;
  expect(code, stderr).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ steps: TOTAL, stopped: null });
  expect(stderr.match(/held-out samples/g)).toHaveLength(4);
  expect(stepsOf('plain')).toBe(TOTAL);
  expect(readdirSync(join(runs.out('plain'), 'tensorboard'))).toHaveLength(1);
  expect(readdirSync(join(runs.out('plain'), 'logs'))).toEqual(['rank-0.log', 'rank-1.log', 'rank-2.log']);
  expect(existsSync(join(runs.out('plain'), 'lock'))).toBe(false);
});

test('a mistake is told once', async () => {
  const wrong = await start('wrong', '--processes', '2', '--set', 'optimizer.lr=-1').ended;
  expect(wrong.code).toBe(2);
  expect(wrong.stderr.match(/error:/g)).toHaveLength(1);
  const taken = await start('plain', '--processes', '2').ended;
  expect(taken.code).toBe(2);
  expect(taken.stderr.match(/already holds a run/g)).toHaveLength(1);
});

test('ten kills of random processes at random moments end in the same bytes', { timeout: 400_000 }, async () => {
  const unbroken = await start('unbroken', '--processes', '3', '--set', 'parallel.zero=3').ended;
  expect(unbroken.code, unbroken.stderr).toBe(0);
  const killed = start('killed', '--processes', '3', '--max-restarts', '10', '--set', 'parallel.zero=3');
  const ended = () => killed.child.exitCode !== null;
  let kills = 0;
  for (let seed = 7; kills < 10; kills++) {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    const rank = seed % 3;
    await until(() => ended() || pidsOf('killed', rank).length > kills, killed);
    // Between being started and some steps later: before it has joined, while it trains, while it writes.
    const before = stepsOf('killed');
    const moment = performance.now() + 200 + (seed % 1800);
    await until(() => ended() || performance.now() > moment || stepsOf('killed') > before + 1, killed);
    if (ended()) break;
    process.kill(pidsOf('killed', rank)[kills]!, 'SIGKILL');
  }
  const { code, stderr } = await killed.ended;
  expect(code, stderr).toBe(0);
  expect(kills).toBe(10);
  expect(stderr).toContain('restart 10 of 10');
  expect(weights('killed').equals(weights('unbroken'))).toBe(true);
  expect(stepsOf('killed')).toBe(TOTAL);
});

test('a signal stops all, and the run goes on with other numbers of processes and other stages', {
  timeout: 300_000,
}, async () => {
  const ways = [
    ['1', '2'],
    ['3', '3'],
    ['2', '1'],
    ['4', '0'],
  ] as const;
  for (const [at, [processes, zero]] of ways.entries()) {
    const flags = ['--processes', processes, '--set', `parallel.zero=${zero}`, ...(at > 0 ? ['--resume'] : [])];
    const started = start('changing', ...flags);
    if (at < ways.length - 1) {
      await until(() => stepsOf('changing') >= 8 * (at + 1), started);
      started.child.kill('SIGTERM');
    }
    const { code, stderr } = await started.ended;
    expect(code, stderr).toBe(at < ways.length - 1 ? 143 : 0);
  }
  expect(stepsOf('changing')).toBe(TOTAL);
  expect(runs.difference('changing', 'unbroken')).toBeLessThan(1e-5);
});

test('workers end with their launcher', async () => {
  const orphans = start('orphans', '--processes', '2', '--set', 'numEpochs=2000');
  await until(() => stepsOf('orphans') > 2, orphans);
  const pids = [0, 1].map((rank) => pidsOf('orphans', rank)[0]!);
  expect(pids.every(isAlive)).toBe(true);
  orphans.child.kill('SIGKILL');
  await vi.waitUntil(() => !pids.some(isAlive), { timeout: 10_000 });
});
