// Starts the processes of a distributed program in tests: Node children with the environment variables that launchers set.
import { type ChildProcess, spawn } from 'node:child_process';
import { freePort } from '../packages/ivtlr/src/launch/worker-environment.ts';

export interface RankOutcome {
  /** The exit code; null when a signal ended the process. */
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface RankProcess {
  readonly rank: number;
  readonly process: ChildProcess;
  readonly outcome: Promise<RankOutcome>;
  /** Resolves once the process has printed `text` to stdout; rejects if it ends before. */
  printed(text: string): Promise<void>;
}

export interface RankOptions {
  /** Seconds until every process is killed and the promise is rejected; default 100. */
  timeout?: number;
  /** Added to every rank's environment; `undefined` removes a variable. A function is asked for each rank. */
  env?: Record<string, string | undefined> | ((rank: number) => Record<string, string | undefined>);
}

export interface Ranks {
  readonly port: number;
  readonly ranks: readonly RankProcess[];
  /** Every rank's end, in order of rank; rejected with what all of them printed when the timeout passes. */
  readonly done: Promise<RankOutcome[]>;
  /** Kills what still runs and waits for it. */
  [Symbol.asyncDispose](): Promise<void>;
}

function startRank(script: string, payload: unknown, rank: number, env: NodeJS.ProcessEnv): RankProcess {
  const child = spawn(process.execPath, [script, JSON.stringify(payload ?? null)], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const outcome = new Promise<RankOutcome>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
  const printed = (text: string) =>
    new Promise<void>((resolve, reject) => {
      const look = () => {
        if (!stdout.includes(text)) return;
        child.stdout.off('data', look);
        resolve();
      };
      child.stdout.on('data', look);
      look();
      outcome.then(
        () => reject(new Error(`rank ${rank} ended without printing "${text}":\n${stdout}${stderr}`)),
        reject,
      );
    });
  return { rank, process: child, outcome, printed };
}

/**
 * Starts `world` Node processes that run `script`, the path of an .mjs file, with the payload as JSON in `process.argv[2]`. Each has RANK,
 * WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT (a free port) and one OpenMP thread.
 */
export async function startRanks(
  world: number,
  script: string,
  payload: unknown = null,
  { timeout = 100, env = {} }: RankOptions = {},
): Promise<Ranks> {
  const port = await freePort();
  const ranks = Array.from({ length: world }, (_, rank) =>
    startRank(script, payload, rank, {
      ...process.env,
      RANK: String(rank),
      WORLD_SIZE: String(world),
      LOCAL_RANK: String(rank),
      LOCAL_WORLD_SIZE: String(world),
      MASTER_ADDR: '127.0.0.1',
      MASTER_PORT: String(port),
      OMP_NUM_THREADS: '1',
      ...(typeof env === 'function' ? env(rank) : env),
    }),
  );
  const killAll = () => {
    for (const { process: child } of ranks) child.kill('SIGKILL');
  };
  process.once('exit', killAll);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    killAll();
  }, timeout * 1000);
  const ended = Promise.all(ranks.map(({ outcome }) => outcome)).finally(() => {
    clearTimeout(timer);
    killAll();
    process.off('exit', killAll);
  });
  const done = ended.then((outcomes) => {
    if (!late) return outcomes;
    const all = outcomes.map(({ code, signal, stdout, stderr }, rank) => {
      return `rank ${rank} (${signal ?? `exit code ${code}`}):\n${stdout}${stderr}`;
    });
    throw new Error(`the ranks of ${script} did not end within ${timeout} s\n${all.join('\n')}`);
  });
  done.catch(() => {}); // a test that only looks at single ranks has no use for it
  return {
    port,
    ranks,
    done,
    async [Symbol.asyncDispose]() {
      killAll();
      await ended;
    },
  };
}

/** As startRanks(), then waits until every rank has ended. */
export async function runRanks(
  world: number,
  script: string,
  payload: unknown = null,
  options: RankOptions = {},
): Promise<RankOutcome[]> {
  return (await startRanks(world, script, payload, options)).done;
}
