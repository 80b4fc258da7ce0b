/**
 * Training on two machines: two network namespaces of this one, with host names of their own, joined by a line that can be cut or slowed down.
 * Needs root and Linux's `ip`.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { childrenOf, findTorchrun, kill, Launching, type Started, TOTAL, until } from './launching.ts';

const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const [A, B] = [`ivtlr-a-${process.pid}`, `ivtlr-b-${process.pid}`];
const ADDRESSES = ['10.213.7.1', '10.213.7.2'] as const;
const NAMES = ['ivtlr-machine-0', 'ivtlr-machine-1'] as const;

function command(line: string): string {
  const [program, ...args] = line.split(' ');
  const { status, stderr, error } = spawnSync(program!, args, { encoding: 'utf8', env: { ...process.env, PATH } });
  return status === 0 ? '' : `"${line}" failed: ${(error?.message ?? stderr).trim()}`;
}
function must(line: string): void {
  const problem = command(line);
  if (problem !== '') throw new Error(problem);
}
const removeNamespaces = () => [A, B].map((name) => command(`ip netns del ${name}`));

/** Why this machine cannot do it; empty where it can. */
function obstacle(): string {
  if (process.getuid!() !== 0) return 'only root may make network namespaces';
  for (const line of [`ip netns add ${A}`, `ip netns exec ${A} unshare --uts --mount true`]) {
    const problem = command(line);
    if (problem !== '') return problem;
  }
  return '';
}
const problem = obstacle();
removeNamespaces();
const torchrun = findTorchrun();
const noTun = existsSync('/dev/net/tun') ? '' : 'there is no /dev/net/tun';
const suffix = (reason: string) => (reason === '' ? '' : ` (skipped: ${reason})`);

describe.skipIf(problem !== '')(`two machines${suffix(problem)}`, () => {
  const runs = new Launching();
  const machines = [A, B] as const;

  beforeAll(async () => {
    for (const name of machines) {
      must(`ip netns add ${name}`);
      must(`ip -n ${name} link set lo up`);
    }
    must(`ip link add line netns ${A} type veth peer name line netns ${B}`);
    for (const at of [0, 1] as const) {
      must(`ip -n ${machines[at]} addr add ${ADDRESSES[at]}/24 dev line`);
      must(`ip -n ${machines[at]} link set line up`);
      // As Debian has it: a machine's own name stands for a loopback address, under which the other machine cannot reach it.
      const lines = ['127.0.0.1 localhost', `127.0.1.1 ${NAMES[at]}`, `${ADDRESSES[1 - at]} ${NAMES[1 - at]}`];
      writeFileSync(runs.out(`hosts-${at}`), `${lines.join('\n')}\n`);
    }
    const { code, stderr } = await runs.start(runs.train('alone')).ended;
    expect(code, stderr).toBe(0);
  });
  afterAll(() => {
    runs[Symbol.dispose]();
    removeNamespaces();
  });

  /** On machine 0 or 1, each under its name. */
  const on = (machine: 0 | 1, program: readonly string[], env: NodeJS.ProcessEnv = {}) => {
    const name = `hostname ${NAMES[machine]} && mount --bind ${runs.out(`hosts-${machine}`)} /etc/hosts && exec "$@"`;
    const named = ['unshare', '--uts', '--mount', 'sh', '-c', name, '-', ...program];
    return runs.start(['ip', 'netns', 'exec', machines[machine], ...named], { PATH, ...env });
  };
  let port = 29_400;
  /** The same training on both, by the variables that launchers set. */
  const onBoth = (args: string[], master: string = NAMES[0]) => {
    port++;
    return ([0, 1] as const).map((rank) =>
      on(rank, args, {
        ...{ RANK: String(rank), WORLD_SIZE: '2', LOCAL_RANK: '0', LOCAL_WORLD_SIZE: '1' },
        ...{ MASTER_ADDR: master, MASTER_PORT: String(port) },
      }),
    );
  };
  /** A process that its parent has not asked about yet counts as ended. */
  const isAlive = (pid: number) =>
    existsSync(`/proc/${pid}/status`) && !/^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  const allWell = async (both: Started[]) => {
    for (const { code, stderr } of await Promise.all(both.map(({ ended }) => ended))) expect(code, stderr).toBe(0);
  };

  test('trained across, by plain environment variables', async () => {
    await allWell(onBoth(runs.train('plain')));
    expect(runs.difference('plain', 'alone')).toBeLessThan(1e-5);
  });

  test('the line is cut: both say so in time, and go on when it is back', async () => {
    const args = runs.train('cut', '--resume', '--set', 'parallel.timeout=5');
    const both = onBoth(args);
    await until(() => runs.steps('cut') >= 8, both[0]!);
    must(`ip -n ${A} link set line down`);
    const cut = performance.now();
    const ends = await Promise.all(both.map(({ ended }) => ended));
    const seconds = (performance.now() - cut) / 1000;
    ends.forEach(({ code, stderr }, rank) => {
      expect(code, stderr).toBe(1);
      expect(stderr.match(/^error: /gm), stderr).toHaveLength(1);
      expect(stderr).toMatch(rank === 0 ? /^error: .*(rank|process) 1.*/m : /^error: .*(rank|process) 0.*/m);
    });
    expect(seconds).toBeLessThan(20);
    expect(runs.steps('cut')).toBeLessThan(TOTAL);
    must(`ip -n ${A} link set line up`);
    await allWell(onBoth(args));
    expect(runs.difference('cut', 'alone')).toBeLessThan(1e-5);
  });

  test.skipIf(noTun !== '')(`a line with 20 ms delay and 1 % loss${suffix(noTun)}`, { timeout: 180_000 }, async () => {
    const script = fileURLToPath(new URL('slow-line.py', import.meta.url));
    const slow = runs.start([process.env.PYTHON ?? 'python3', script, A, 'slow', B, 'slow', '20', '0.01']);
    let told = '';
    slow.child.stdout!.on('data', (text) => {
      told += text;
    });
    await until(() => told.includes('ready'), slow);
    for (const at of [0, 1] as const) {
      must(`ip -n ${machines[at]} addr add 10.213.8.${at + 1}/24 dev slow`);
      must(`ip -n ${machines[at]} link set slow up`);
    }
    const short = ['--set', 'numEpochs=2'];
    await allWell([runs.start(runs.train('short', ...short)), ...onBoth(runs.train('slow', ...short), '10.213.8.1')]);
    expect(runs.difference('slow', 'short')).toBeLessThan(1e-5);
    slow.child.kill();
    await slow.ended;
    const [, carried, lost] = told
      .trim()
      .split('\n')
      .at(-1)!
      .match(/carried (\d+), lost (\d+)/)!
      .map(Number);
    expect(carried).toBeGreaterThan(1000);
    expect(lost).toBeGreaterThan(0);
  });

  const noTorchrun = torchrun ? '' : 'PYTHON names no Python with torch';
  let rendezvous = 29_300;
  /** A launcher on each. */
  const byTorchrun = (args: string[], maxRestarts: number) => {
    rendezvous++;
    return ([0, 1] as const).map((machine) =>
      on(machine, [
        ...torchrun!,
        ...['--no-python', '--nnodes', '2', '--nproc-per-node', '1', '--max-restarts', String(maxRestarts)],
        ...['--rdzv-backend', 'c10d', '--rdzv-id', 'machines', '--rdzv-endpoint', `${NAMES[0]}:${rendezvous}`],
        ...args,
      ]),
    );
  };

  test.skipIf(noTorchrun !== '')(`torchrun${suffix(noTorchrun)}`, async () => {
    const both = byTorchrun(runs.train('torchrun'), 2);
    await until(() => runs.steps('torchrun') >= 8, both[0]!);
    kill(childrenOf(both[1]!.child.pid!).at(-1)!);
    await allWell(both);
    expect(both.map(({ stderr }) => stderr()).join('')).toMatch(/going on after step/);
    expect(runs.difference('torchrun', 'alone')).toBeLessThan(1e-5);
  });

  test.skipIf(noTorchrun !== '')(`the line of torchrun's nodes is cut${suffix(noTorchrun)}`, async () => {
    const args = runs.train('torchrun-cut', '--resume', '--set', 'parallel.timeout=5');
    const both = byTorchrun(args, 0);
    await until(() => runs.steps('torchrun-cut') >= 8, both[0]!);
    const workers = both.map(({ child }) => childrenOf(child.pid!).at(-1)!);
    must(`ip -n ${A} link set line down`);
    const cut = performance.now();
    // Each worker ends by itself. The launcher of the machine that does not serve the store may wait for it much longer.
    for (const [machine, worker] of workers.entries()) {
      await until(() => !isAlive(worker), both[machine]!);
      await until(() => /^error: .*(rank|process|store)/m.test(both[machine]!.stderr()), both[machine]!);
    }
    const seconds = (performance.now() - cut) / 1000;
    expect(seconds).toBeLessThan(25);
    for (const { child } of both) for (const pid of [...childrenOf(child.pid!), child.pid!]) kill(pid);
    await Promise.all(both.map(({ ended }) => ended));
    expect(runs.steps('torchrun-cut')).toBeLessThan(TOTAL);
    must(`ip -n ${A} link set line up`);
    await allWell(byTorchrun(args, 0));
    expect(runs.difference('torchrun-cut', 'alone')).toBeLessThan(1e-5);
  });
});
