/**
 * The sbatch file of docs/clusters.md on a SLURM of one machine, which is brought up for it in a temporary folder. Needs root, and slurmctld,
 * slurmd, slurm-client and munge (Debian's packages).
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort } from '../../packages/ivtlr/src/launch/worker-environment.ts';
import { kill, Launching, pause, program, TOTAL } from './launching.ts';

const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const runs = new Launching();
const place = runs.out('slurm');
const config = join(place, 'slurm.conf');

function call(line: string): string {
  const [name, ...args] = line.split(' ');
  const env = { ...process.env, PATH, SLURM_CONF: config };
  const { status, stdout, stderr, error } = spawnSync(name!, args, { encoding: 'utf8', cwd: runs.folder, env });
  if (status !== 0) throw new Error(`"${line}" failed: ${(error?.message ?? stderr).trim()}`);
  return stdout.trim();
}

const missing = ['slurmctld', 'slurmd', 'sbatch', 'munged'].filter(
  (name) => spawnSync('which', [name], { env: { ...process.env, PATH } }).status !== 0,
);
const obstacle =
  missing.length > 0 ? `not installed: ${missing.join(', ')}` : process.getuid!() !== 0 ? 'only root may start it' : '';

async function bringUp(): Promise<void> {
  mkdirSync(join(place, 'state'), { recursive: true });
  mkdirSync(join(place, 'spool'));
  chmodSync(place, 0o700);
  const at = (name: string) => join(place, name);
  writeFileSync(at('munge.key'), randomBytes(1024), { mode: 0o400 });
  const files = ['key-file=munge.key', 'socket=munge.sock', 'pid-file=munged.pid', 'log-file=munged.log'];
  const flags = [...files, 'seed-file=munge.seed'].map((flag) => `--${flag.replace('=', `=${place}/`)}`);
  call(`munged --force --origin=127.0.0.1 ${flags.join(' ')}`);
  const settings = {
    ...{ ClusterName: 'one', SlurmctldHost: `${hostname()}(127.0.0.1)`, SlurmUser: 'root', SlurmdUser: 'root' },
    ...{ AuthType: 'auth/munge', AuthInfo: `socket=${at('munge.sock')}`, CryptoType: 'crypto/munge' },
    ...{ SlurmctldPort: await freePort(), SlurmdPort: await freePort() },
    ...{ StateSaveLocation: at('state'), SlurmdSpoolDir: at('spool') },
    ...{ SlurmctldPidFile: at('slurmctld.pid'), SlurmdPidFile: at('slurmd.pid') },
    ...{ SlurmctldLogFile: at('slurmctld.log'), SlurmdLogFile: at('slurmd.log') },
    ...{ ProctrackType: 'proctrack/linuxproc', TaskPlugin: 'task/none', SwitchType: 'switch/none', MpiDefault: 'none' },
    ...{ SelectType: 'select/cons_tres', SelectTypeParameters: 'CR_Core', ReturnToService: 2, KillWait: 60 },
    ...{ JobAcctGatherType: 'jobacct_gather/none', AccountingStorageType: 'accounting_storage/none' },
    SchedulerParameters: 'sched_interval=2,bf_interval=2',
  };
  const nodes = [
    `NodeName=${hostname()} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN`,
    'PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:4',
  ];
  const lines = [...Object.entries(settings).map(([key, value]) => `${key}=${value}`), ...nodes];
  writeFileSync(config, `${lines.join('\n')}\n`);
  call('slurmctld -c');
  await pause(1000);
  call(`slurmd -N ${hostname()}`);
  for (let tries = 0; !/ idle /.test(call('sinfo')); tries++) {
    if (tries > 60) throw new Error(readFileSync(at('slurmctld.log'), 'utf8'));
    await pause(500);
  }
}

/** A process that has ended may stay as a zombie (Z) where nobody asks for its end. */
function isRunning(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** Ends the daemons, and waits until they are gone. */
async function takeDown(): Promise<void> {
  for (const name of ['slurmd', 'slurmctld', 'munged']) {
    const file = join(place, `${name}.pid`);
    if (!existsSync(file)) continue;
    const pid = Number(readFileSync(file, 'utf8'));
    kill(pid, 'SIGTERM');
    for (let tries = 0; isRunning(pid); tries++) {
      if (tries === 100) kill(pid);
      await pause(100);
    }
  }
}

describe.skipIf(obstacle !== '')(`SLURM${obstacle && ` (skipped: ${obstacle})`}`, () => {
  const log = () => (existsSync(runs.out('job.log')) ? readFileSync(runs.out('job.log'), 'utf8') : '');

  beforeAll(async () => {
    await bringUp();
    const { code, stderr } = await runs.start(runs.train('alone')).ended;
    expect(code, stderr).toBe(0);
    // The documented file, for this small machine.
    const docs = readFileSync(fileURLToPath(new URL('../../docs/clusters.md', import.meta.url)), 'utf8');
    const [, file] = docs.match(/```\n(#!\/bin\/bash\n#SBATCH[^`]*)```/)!;
    const small = { '--nodes': 1, '--ntasks-per-node': 2, '--cpus-per-task': 1, '--time': 5 };
    const fitted = Object.entries(small).reduce((text, [flag, value]) => {
      const changed = text.replace(new RegExp(`^#SBATCH ${flag}=.*$`, 'm'), `#SBATCH ${flag}=${value}`);
      expect(changed, flag).not.toBe(text);
      return changed;
    }, file!);
    writeFileSync(runs.out('train.sbatch'), fitted);
    mkdirSync(runs.out('node_modules/.bin'), { recursive: true });
    symlinkSync(program, runs.out('node_modules/.bin/ivtlr'));
    chmodSync(program, 0o755);
  });
  afterAll(async () => {
    if (existsSync(join(place, 'slurmctld.pid'))) {
      call('scancel --user=root');
      for (let tries = 0; tries < 150 && call('squeue --noheader') !== ''; tries++) await pause(100);
    }
    await takeDown();
    runs[Symbol.dispose]();
  });

  const submit = () => call('sbatch --parsable --output=job.log train.sbatch');
  const until = async (look: () => boolean) => {
    for (const end = performance.now() + 60_000; !look(); await pause(100)) {
      if (performance.now() > end) throw new Error(`it did not come to that:\n${log()}`);
    }
  };
  const state = (job: string) => call(`scontrol show job ${job}`).match(/JobState=(\w+)/)![1];

  test('SIGTERM before the time is over: a checkpoint, and again in the queue to the end', async () => {
    const job = submit();
    await until(() => runs.steps('out') >= 8);
    // As `--signal` sends it.
    call(`scancel --signal=TERM ${job}`);
    await until(() => state(job) === 'PENDING');
    // SLURM lets a requeued job wait two minutes, which are cut short here, but not so short that its first run is still being cleared away.
    await pause(4000);
    call(`scontrol update JobId=${job} StartTime=now`);
    await until(() => state(job) === 'COMPLETED' || state(job) === 'FAILED');
    expect(state(job), log()).toBe('COMPLETED');
    expect(log()).toMatch(/stopped by SIGTERM; checkpoint [\s\S]*going on after step/);
    expect(runs.steps('out')).toBe(TOTAL);
    expect(runs.difference('out', 'alone')).toBeLessThan(1e-5);
  });

  test('scancel: a checkpoint, and no more', async () => {
    const text = readFileSync(runs.out('train.sbatch'), 'utf8');
    writeFileSync(
      runs.out('train.sbatch'),
      text.replace('recipe.yaml', 'recipe.yaml --set out=cancelled --set numEpochs=60'),
    );
    const job = submit();
    await until(() => runs.steps('cancelled') >= 8);
    call(`scancel ${job}`);
    await until(() => /stopped by SIGTERM; checkpoint .*cancelled/.test(log()));
    await until(() => call('squeue --noheader') === '');
    await pause(2000);
    expect(state(job)).toBe('CANCELLED');
    expect(call('squeue --noheader')).toBe('');
  });
});
