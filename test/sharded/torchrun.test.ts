/** Training by PyTorch's launcher; PYTHON names a Python with torch. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort } from '../../packages/ivtlr/src/launch/worker-environment.ts';
import { childrenOf, findTorchrun, kill, Launching, type Started, TOTAL, until } from './launching.ts';

const torchrun = findTorchrun();
const runs = new Launching();
afterAll(() => runs[Symbol.dispose]());

/** The processes that train, of one torchrun. */
const workersOf = ({ child }: Started) => childrenOf(child.pid!);

describe.skipIf(torchrun === null)(`torchrun${torchrun ? '' : ' (skipped: PYTHON names no Python with torch)'}`, () => {
  beforeAll(async () => {
    const { code, stderr } = await runs.start(runs.train('alone')).ended;
    expect(code, stderr).toBe(0);
  });

  const oneNode = (processes: number, command: string[], ...more: string[]) =>
    runs.start([
      ...torchrun!,
      '--no-python',
      '--standalone',
      '--nproc-per-node',
      String(processes),
      ...more,
      ...command,
    ]);

  test.each([2, 3])('one node, %i processes', async (processes) => {
    const out = `node-${processes}`;
    const { code, stdout, stderr } = await oneNode(processes, runs.train(out)).ended;
    expect(code, stderr).toBe(0);
    expect(stdout.match(/^model: /gm)).toHaveLength(1);
    expect(runs.difference(out, 'alone')).toBeLessThan(1e-5);
  });

  /** One of several nodes, all of them on this machine. */
  const node = (port: number, nodes: string, command: string[], ...more: string[]) => {
    const full = [
      ...torchrun!,
      ...['--no-python', '--nnodes', nodes, '--nproc-per-node', '1', '--rdzv-backend', 'c10d', '--rdzv-id', 'nodes'],
      ...['--rdzv-endpoint', `127.0.0.1:${port}`, '--local-addr', '127.0.0.1'],
      ...['--rdzv-conf', 'last_call_timeout=2,keep_alive_interval=1'],
      ...more,
      ...command,
    ];
    return runs.start(full);
  };

  test('two nodes', async () => {
    const port = await freePort();
    const both = [0, 1].map(() => node(port, '2', runs.train('nodes')));
    for (const { code, stderr } of await Promise.all(both.map(({ ended }) => ended))) expect(code, stderr).toBe(0);
    expect(runs.difference('nodes', 'alone')).toBeLessThan(1e-5);
  });

  test('a killed worker: all go on from the last checkpoint by themselves', async () => {
    for (const rank of [0, 1]) {
      const out = `killed-${rank}`;
      const launcher = oneNode(2, runs.train(out), '--max-restarts', '1');
      await until(() => runs.steps(out) >= 8, launcher);
      const before = workersOf(launcher);
      expect(before).toHaveLength(2);
      kill(before[rank]!);
      const { code, stderr } = await launcher.ended;
      expect(code, stderr).toBe(0);
      expect(stderr).toMatch(/going on after step \d+ of 36/);
      expect(runs.difference(out, 'alone')).toBeLessThan(1e-5);
    }
  });
});

test('plain environment variables, as other launchers set them', async () => {
  expect((await runs.start(runs.train('single')).ended).code).toBe(0);
  const port = await freePort();
  // One process and one GPU a machine: each has local rank 0.
  const both = [0, 1].map((rank) =>
    runs.start(runs.train('plain', '--resume'), {
      ...{ RANK: String(rank), WORLD_SIZE: '2', LOCAL_RANK: '0', LOCAL_WORLD_SIZE: '1' },
      ...{ MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port), GLOO_SOCKET_IFNAME: 'lo' },
    }),
  );
  const ends = await Promise.all(both.map(({ ended }) => ended));
  for (const { code, stderr } of ends) expect(code, stderr).toBe(0);
  expect(ends[1]!.stdout).toBe('');
  expect(runs.steps('plain')).toBe(TOTAL);
  expect(runs.difference('plain', 'single')).toBeLessThan(1e-5);
});
