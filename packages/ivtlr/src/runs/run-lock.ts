/** One run in a folder at a time: a file that names the process which trains there. */
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../errors.ts';
import { makeFolder } from '../files.ts';

interface Owner {
  pid: number;
  host: string;
  /** Changes when the machine starts anew; null where it cannot be told. */
  boot: string | null;
  /** When the process started, in ticks since boot: another process may get the same pid later. Null where it cannot be told. */
  started: string | null;
  /** The launcher's name of the run; null where it has given none. */
  job: string | null;
}

/**
 * Takes the folder, which is made if need be, until `dispose`. A lock whose process is gone, or was an earlier attempt of the same job on another
 * machine, is taken over.
 * @param other how to choose another folder, for the message
 * @throws UserError when another process trains there, or the folder cannot be made
 */
export class RunLock implements Disposable {
  readonly #path: string;
  readonly #text: string;

  constructor(folder: string, other = '--set out=FOLDER') {
    makeFolder(folder);
    this.#path = join(folder, 'lock');
    const owner: Owner = {
      pid: process.pid,
      host: hostname(),
      boot: bootId(),
      started: startOf(process.pid),
      job: jobName(),
    };
    this.#text = `${JSON.stringify(owner)}\n`;
    for (let tries = 0; tries < 10; tries++) {
      if (this.#create()) return;
      const text = readOr(this.#path, null);
      if (text === null) continue; // released just now
      if (isAlive(text)) throw new UserError(describeOwner(folder, this.#path, text, other));
      this.#remove(text);
    }
    throw new UserError(`${folder} is being taken by several processes at once; try again`);
  }

  [Symbol.dispose](): void {
    if (readOr(this.#path, null) === this.#text) rmSync(this.#path, { force: true });
  }

  /** False where there is a lock already. The file appears with its content. */
  #create(): boolean {
    const own = `${this.#path}.${process.pid}`;
    try {
      writeFileSync(own, this.#text);
      linkSync(own, this.#path);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
      throw new UserError(`cannot write ${this.#path}: ${(error as Error).message}`);
    } finally {
      rmSync(own, { force: true });
    }
  }

  /** Removes the lock with this content, but not one that another process has put there meanwhile. */
  #remove(text: string): void {
    const aside = `${this.#path}.stale.${process.pid}`;
    try {
      renameSync(this.#path, aside);
      if (readFileSync(aside, 'utf8') !== text) linkSync(aside, this.#path);
    } catch {
      // Somebody else was faster; the next try sees whose lock it is now.
    } finally {
      rmSync(aside, { force: true });
    }
  }
}

/** Whether a process trains in the folder. */
export function isLocked(folder: string): boolean {
  const text = readOr(join(folder, 'lock'), null);
  return text !== null && isAlive(text);
}

function isAlive(text: string): boolean {
  const owner = parseOwner(text);
  if (owner === null) return false;
  // Cannot be told from here; but a launcher that starts a run again, with its first process on another machine, has ended the former ones.
  if (owner.host !== hostname()) return !owner.job || owner.job !== jobName();
  if (owner.boot !== bootId()) return false;
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  return owner.started === startOf(owner.pid);
}

function describeOwner(folder: string, lock: string, text: string, other: string): string {
  const { pid, host } = parseOwner(text)!;
  const gone = host === hostname() ? '' : ` (if that process is gone, remove ${lock})`;
  return `${folder} is being trained in by process ${pid} on ${host}: wait for it, or choose another folder with ${other}${gone}`;
}

function parseOwner(text: string): Owner | null {
  try {
    const owner = JSON.parse(text) as Owner | null;
    return Number.isInteger(owner?.pid) && owner!.pid > 0 && typeof owner!.host === 'string' ? owner : null;
  } catch {
    return null;
  }
}

/** A job of SLURM, or a torchrun with a name of its own (`--rdzv-id`). */
function jobName(): string | null {
  const { TORCHELASTIC_RUN_ID: run = 'none', SLURM_JOB_ID: job } = process.env;
  if (run !== 'none') return `torchrun ${run}`;
  return job ? `slurm ${job}` : null;
}

function bootId(): string | null {
  return readOr('/proc/sys/kernel/random/boot_id', null)?.trim() ?? null;
}

/** The 22nd field of /proc/PID/stat; the second, in parentheses, may hold spaces. */
function startOf(pid: number): string | null {
  const stat = readOr(`/proc/${pid}/stat`, null);
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
}

function readOr<T>(path: string, other: T): string | T {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return other;
  }
}
