/** Runs a script in several processes that find each other: what a launcher of several processes does, for tests. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';

export interface RankResult {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface RanksOptions {
  /** Seconds until all are killed; default 60. */
  timeout?: number;
  env?: Readonly<Record<string, string>>;
}

/** Processes under way. */
export interface Ranks {
  children: ChildProcess[];
  /** When all have ended. */
  results: Promise<RankResult[]>;
}

/** A port of this machine that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts `node script ..args` as the ranks of a world; each uses one thread. */
export async function startRanks(
  world: number,
  script: string,
  args: readonly string[] = [],
  { timeout = 60, env = {} }: RanksOptions = {},
): Promise<Ranks> {
  const port = await freePort();
  const children = Array.from({ length: world }, (_, rank) =>
    spawn(process.execPath, [script, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        RANK: String(rank),
        WORLD_SIZE: String(world),
        LOCAL_RANK: String(rank),
        LOCAL_WORLD_SIZE: String(world),
        MASTER_ADDR: '127.0.0.1',
        MASTER_PORT: String(port),
        OMP_NUM_THREADS: '1',
        ...env,
      },
    }),
  );
  const timer = setTimeout(() => {
    for (const child of children) child.kill('SIGKILL');
  }, timeout * 1000);
  const results = Promise.all(children.map(resultOf)).finally(() => clearTimeout(timer));
  return { children, results };
}

/** As startRanks, until all have ended. */
export async function runRanks(
  world: number,
  script: string,
  args: readonly string[] = [],
  options: RanksOptions = {},
): Promise<RankResult[]> {
  return (await startRanks(world, script, args, options)).results;
}

function resultOf(child: ChildProcess): Promise<RankResult> {
  let stdout = '';
  let stderr = '';
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  return new Promise((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}
