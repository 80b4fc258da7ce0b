/**
 * Processes that stand or fall together: when one of them dies, the others are ended, and all may be started again. It knows nothing of what they
 * compute.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import { join } from 'node:path';
import { makeFolder } from '../files.ts';
import { Log } from './log.ts';
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
/** Exit codes of a worker that ends as asked; the others are about to do the same, and may still be writing a checkpoint. */
const AS_ASKED = new Set([129, 130, 143]);
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** The others notice a death at once, so of the endings within this many milliseconds one by a signal is the cause. */
const AT_ONCE = 500;

interface Ending {
  rank: number;
  /** 128 + its number for a signal, as a shell has it. */
  code: number;
  signal: NodeJS.Signals | null;
  /** performance.now() */
  time: number;
  /** What the worker said last that looks like an error. */
  said: string | null;
}

/** Runs the workers to their end, or until the restarts are used up. @returns the exit code that stands for all */
export async function runWorkers(options: WorkersOptions): Promise<number> {
  makeFolder(options.logs);
  for (let restart = 0; ; restart++) {
    const { cause, asked } = await runOnce(options, restart);
    if (cause === null) return 0;
    if (!FINAL.has(cause.code) || cause.signal) options.note(describe(cause, options));
    if (asked || FINAL.has(cause.code) || restart === options.maxRestarts) return cause.code;
    options.note(
      `starting all ${options.processes} processes again (restart ${restart + 1} of ${options.maxRestarts})`,
    );
  }
}

/** @returns why it ended, null where all workers ended well, and whether a signal had asked for the end */
async function runOnce(options: WorkersOptions, restart: number): Promise<{ cause: Ending | null; asked: boolean }> {
  const port = await freePort();
  const workers = Array.from({ length: options.processes }, (_, rank) => start(rank, port, restart, options));
  let endedByUs = Number.POSITIVE_INFINITY;
  const endAll = () => {
    endedByUs = performance.now();
    for (const { child } of workers) child.kill('SIGKILL');
  };
  let asked = false;
  // They are out of the terminal's reach (detached), so each signal reaches them once. The second one ends them, as it would a single process.
  const pass = (signal: NodeJS.Signals) => {
    if (asked) endAll();
    else for (const { child } of workers) child.kill(signal);
    asked = true;
  };
  for (const name of SIGNALS) process.on(name, pass);
  const bad: Ending[] = [];
  let timer: NodeJS.Timeout | undefined;
  try {
    await Promise.all(
      workers.map(async ({ ended }) => {
        const ending = await ended;
        if (ending.code === 0) return;
        bad.push(ending);
        if (ending.signal === null && AS_ASKED.has(ending.code)) return;
        timer ??= setTimeout(endAll, (options.grace ?? 8) * 1000);
      }),
    );
  } finally {
    clearTimeout(timer);
    for (const name of SIGNALS) process.off(name, pass);
  }
  const first = bad[0];
  const killed = bad.find(({ signal, time }) => signal !== null && time < Math.min(endedByUs, first!.time + AT_ONCE));
  return { cause: killed ?? first ?? null, asked };
}

function start(
  rank: number,
  port: number,
  restart: number,
  options: WorkersOptions,
): { child: ChildProcess; ended: Promise<Ending> } {
  const { processes, command, again, logs, note } = options;
  const [program, ...args] = restart > 0 ? [...command, ...again] : command;
  const log = new Log(join(logs, `rank-${rank}.log`), note);
  const child = spawn(program!, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...workerVariables(rank, processes, port) },
  });
  log.write(`--- ${new Date().toISOString()} process ${rank} of ${processes}, pid ${child.pid}`);
  let said: string | null = null;
  for (const [stream, shown] of [
    [child.stdout!, process.stdout],
    [child.stderr!, process.stderr],
  ] as const) {
    let rest = '';
    stream.setEncoding('utf8').on('data', (text: string) => {
      if (rank === 0) shown.write(text);
      const lines = (rest + text).split('\n');
      rest = lines.pop()!;
      for (const drawn of lines) {
        // A redrawn line of progress begins by clearing what stood there.
        const line = drawn.split('\x1b[2K').at(-1)!;
        if (/\berror\b/i.test(line)) said = line;
        log.write(line);
      }
    });
  }
  const ended = new Promise<Ending>((resolve) => {
    const end = (code: number, signal: NodeJS.Signals | null) =>
      resolve({ rank, code, signal, time: performance.now(), said });
    child.on('error', (error) => {
      said = error.message;
      end(1, null);
    });
    child.on('close', (code, signal) => end(signal ? 128 + constants.signals[signal] : code!, signal));
  }).finally(() => log.close());
  return { child, ended };
}

function describe({ rank, code, signal, said }: Ending, { processes, logs }: WorkersOptions): string {
  const how = signal ? `was ended by ${signal}` : `ended with code ${code}${said === null ? '' : `: ${said}`}`;
  return `process ${rank} of ${processes} ${how} (its log is ${join(logs, `rank-${rank}.log`)})`;
}
