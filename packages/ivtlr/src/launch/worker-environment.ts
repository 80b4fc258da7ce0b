/** What a process that `--processes` has started is told, and how it finds out that it is one. */
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import { availableParallelism } from 'node:os';

/** Set in workers: 1 where the launcher has a terminal, else 0. */
const TERMINAL = 'IVTLR_LAUNCHER_TERMINAL';
/** What a redrawn line begins with: it clears what stood there. */
export const CLEAR_LINE = '\r\x1b[2K';
/** Set in workers: the launcher's process id. */
const LAUNCHER = 'IVTLR_LAUNCHER_PID';

export interface Terminal {
  isTTY: boolean;
  /** Without end: the launcher cuts lines to the width that its terminal has at that moment. */
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
    [TERMINAL]: process.stderr.isTTY ? '1' : '0',
  };
}

/** The launcher's terminal, which shows what this worker writes to stderr; null in a process that no launcher of ours has started. */
export function launcherTerminal(): Terminal | null {
  const text = process.env[TERMINAL];
  if (text === undefined) return null;
  return { isTTY: text === '1', columns: Number.POSITIVE_INFINITY };
}

/** Cuts redrawn lines of progress, which would else wrap, to a terminal's width; one column stays free. Lines that stay are left whole. */
export function fitToTerminal(text: string, columns: number): string {
  const cut = (redrawn: string) => (redrawn.includes('\n') ? redrawn : redrawn.slice(0, columns - 1));
  const [before, ...lines] = text.split(CLEAR_LINE);
  return [before, ...lines.map(cut)].join(CLEAR_LINE);
}

/** Process id of the launcher that has started this worker; null in a process that no launcher of ours has started. */
export function launcherPid(): number | null {
  const text = process.env[LAUNCHER];
  return text === undefined ? null : Number(text);
}

/**
 * A port of 127.0.0.1 that nobody listens on. It is below those that the system gives to connections, any of which could take it before whoever
 * asked listens there.
 */
export async function freePort(): Promise<number> {
  for (let tries = 0; ; tries++) {
    const port = randomInt(10_000, 32_000);
    try {
      await listenOnce(port);
      return port;
    } catch (error) {
      if (tries === 100) throw error;
    }
  }
}

async function listenOnce(port: number): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  await new Promise((resolve) => server.close(resolve));
}
