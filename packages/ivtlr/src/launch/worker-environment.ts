/** What a process that `--processes` has started is told, and how it finds out that it is one. */
import { createServer } from 'node:net';
import { availableParallelism } from 'node:os';

/** Set in workers: the width of the launcher's terminal, or 0 where it has none. */
const TERMINAL = 'IVTLR_LAUNCHER_COLUMNS';
/** Set in workers: the launcher's process id. */
const LAUNCHER = 'IVTLR_LAUNCHER_PID';

export interface Terminal {
  isTTY: boolean;
  columns: number;
}

/** The variables of one worker; see distributedEnvironment. An own number of threads in the launcher's environment stays. */
export function workerVariables(rank: number, processes: number, port: number): Record<string, string> {
  const threads = Math.max(1, Math.floor(availableParallelism() / processes));
  return {
    RANK: String(rank),
    WORLD_SIZE: String(processes),
    LOCAL_RANK: String(rank),
    LOCAL_WORLD_SIZE: String(processes),
    MASTER_ADDR: '127.0.0.1',
    MASTER_PORT: String(port),
    OMP_NUM_THREADS: process.env.OMP_NUM_THREADS ?? String(threads),
    [LAUNCHER]: String(process.pid),
    [TERMINAL]: String(process.stderr.isTTY ? (process.stderr.columns ?? 80) : 0),
  };
}

/** The launcher's terminal, which shows what this worker writes to stderr; null in a process that no launcher of ours has started. */
export function launcherTerminal(): Terminal | null {
  const text = process.env[TERMINAL];
  if (text === undefined) return null;
  const columns = Number(text);
  return { isTTY: columns > 0, columns: columns || 80 };
}

/** Process id of the launcher that has started this worker; null in a process that no launcher of ours has started. */
export function launcherPid(): number | null {
  const text = process.env[LAUNCHER];
  return text === undefined ? null : Number(text);
}

/** A port that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
