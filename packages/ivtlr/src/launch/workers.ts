/**
 * Processes that stand or fall together: when one of them dies, the others are ended, and all may be started again. It knows nothing of what they
 * compute.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../errors.ts';
import { makeFolder } from '../files.ts';
import { freePort, workerVariables } from './worker-environment.ts';

export interface WorkersOptions {
  processes: number;
  /** Program and arguments of every worker. */
  command: readonly string[];
  /** Added to the command when the workers are started again. */
  again: readonly string[];
  /** Folder of rank-K.log. */
  logs: string;
  /** How often all are started again after one has died of something that is not the user's mistake. */
  maxRestarts: number;
  /** Told in a line what happens. */
  note(line: string): void;
  /** Seconds for the others to end by themselves, and say why, after one has died. Default 8. */
  grace?: number;
}

/** Exit codes that are no reason to try again: done, the user's mistake, and ended by SIGHUP, SIGINT or SIGTERM as asked. */
const FINAL = new Set([0, 2, 129, 130, 143]);
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

interface Worker {
  rank: number;
  child: ChildProcess;
  log: string;
  ended: Promise<Ending>;
}

interface Ending {
  rank: number;
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** Runs the workers to their end, or until the restarts are used up. @returns the exit code that stands for all */
export async function runWorkers(options: WorkersOptions): Promise<number> {
  makeFolder(options.logs);
  for (let restart = 0; ; restart++) {
    const { first, asked } = await runOnce(options, restart);
    if (first === null) return 0;
    const code = first.code ?? 1;
    if (!FINAL.has(code) || first.signal) options.note(describe(first, options));
    if (asked || (first.signal === null && FINAL.has(code)) || restart === options.maxRestarts) return code;
    options.note(
      `starting all ${options.processes} processes again (restart ${restart + 1} of ${options.maxRestarts})`,
    );
  }
}

/** @returns the first worker that ended in another way than well, and whether a signal had asked for the end */
async function runOnce(options: WorkersOptions, restart: number): Promise<{ first: Ending | null; asked: boolean }> {
  const port = await freePort();
  const workers = Array.from({ length: options.processes }, (_, rank) => start(rank, port, restart, options));
  let asked = false;
  // They are out of the terminal's reach (detached), so each signal reaches them once. The second one ends them, as it would a single process.
  const pass = (signal: NodeJS.Signals) => {
    for (const { child } of workers) child.kill(asked ? 'SIGKILL' : signal);
    asked = true;
  };
  for (const name of SIGNALS) process.on(name, pass);
  let timer: NodeJS.Timeout | undefined;
  let first: Ending | null = null;
  try {
    await Promise.all(
      workers.map(async ({ ended }) => {
        const ending = await ended;
        if (first !== null || ending.code === 0) return;
        first = ending;
        timer = setTimeout(
          () => {
            for (const { child } of workers) child.kill('SIGKILL');
          },
          (options.grace ?? 8) * 1000,
        );
      }),
    );
  } finally {
    clearTimeout(timer);
    for (const name of SIGNALS) process.off(name, pass);
  }
  return { first, asked };
}

function start(rank: number, port: number, restart: number, options: WorkersOptions): Worker {
  const { processes, command, again, logs } = options;
  const [program, ...args] = restart > 0 ? [...command, ...again] : command;
  const log = join(logs, `rank-${rank}.log`);
  const child = spawn(program!, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...workerVariables(rank, processes, port) },
  });
  const handle = openLog(log);
  writeSync(handle, `--- ${new Date().toISOString()} process ${rank} of ${processes}, pid ${child.pid}\n`);
  for (const [stream, shown] of [
    [child.stdout!, process.stdout],
    [child.stderr!, process.stderr],
  ] as const) {
    let rest = '';
    stream.setEncoding('utf8').on('data', (text: string) => {
      if (rank === 0) shown.write(text);
      const lines = (rest + text).split('\n');
      rest = lines.pop()!;
      // A redrawn line of progress begins by clearing what stood there.
      for (const line of lines) writeSync(handle, `${line.split('\x1b[2K').at(-1)}\n`);
    });
  }
  const ended = new Promise<Ending>((resolve) => {
    child.on('error', () => resolve({ rank, code: 1, signal: null }));
    child.on('close', (code, signal) => resolve({ rank, code, signal }));
  }).finally(() => closeSync(handle));
  return { rank, child, log, ended };
}

function openLog(path: string): number {
  try {
    return openSync(path, 'a');
  } catch (error) {
    throw new UserError(`cannot write ${path}: ${(error as Error).message}`);
  }
}

function describe({ rank, code, signal }: Ending, { processes, logs }: WorkersOptions): string {
  const path = join(logs, `rank-${rank}.log`);
  if (signal) return `process ${rank} of ${processes} was ended by ${signal} (its log is ${path})`;
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  const last = lines.findLast((line) => /\berror\b/i.test(line));
  return `process ${rank} of ${processes} ended with code ${code}${last ? `: ${last}` : ''} (its log is ${path})`;
}
