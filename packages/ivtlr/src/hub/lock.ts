/** One process at a time at one file of the cache: a lock file that names its holder, so that the lock of a dead one is recognised. */
import { randomBytes } from 'node:crypto';
import { link, mkdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** How often a holder renews its lock; one that was not renewed for eight times as long counts as left behind, whoever holds it. */
const RENEW_MS = 15_000;
const LOOK_MS = 200;

export interface LockOptions {
  /** Called once, with the process that holds the lock, when it has to be waited for. */
  onWait?(holder: string): void;
  /** Ends the waiting; the work is then not done. */
  stopped?(): boolean;
}

/**
 * Does the work while holding the lock file, waiting for it as long as another live process holds it.
 * @returns what the work gives; null when the waiting was stopped
 */
export async function withLock<T>(path: string, work: () => Promise<T>, waiting: LockOptions = {}): Promise<T | null> {
  await mkdir(dirname(path), { recursive: true });
  // The random part tells this holder from another one in the same process.
  const own = JSON.stringify({ pid: process.pid, host: hostname(), key: randomBytes(8).toString('hex') });
  for (let told = false; !(await take(path, own)); ) {
    if (waiting.stopped?.()) return null;
    const found = await readFile(path, 'utf8').catch(() => null);
    if (found !== null && (await isLeftBehind(path, found))) {
      await removeLock(path, found);
    } else if (found !== null && !told) {
      waiting.onWait?.(describe(found));
      told = true;
    }
    await sleep(LOOK_MS);
  }
  const renewal = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => {}), RENEW_MS);
  renewal.unref();
  try {
    return await work();
  } finally {
    clearInterval(renewal);
    await removeLock(path, own);
  }
}

async function take(path: string, own: string): Promise<boolean> {
  try {
    await writeFile(path, own, { flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Removes a lock only if it still says what was read: in between, somebody else may have removed it and taken it anew. */
async function removeLock(path: string, content: string): Promise<void> {
  const aside = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    await rename(path, aside);
  } catch {
    return; // Somebody else was faster.
  }
  if ((await readFile(aside, 'utf8').catch(() => content)) !== content) await link(aside, path).catch(() => {});
  await rm(aside, { force: true });
}

async function isLeftBehind(path: string, content: string): Promise<boolean> {
  const { pid, host } = holderOf(content);
  if (pid !== undefined && host === hostname() && !isAlive(pid)) return true;
  const renewed = (await stat(path).catch(() => null))?.mtimeMs;
  return renewed !== undefined && Date.now() - renewed > 8 * RENEW_MS;
}

function holderOf(content: string): { pid?: number; host?: string } {
  try {
    const { pid, host } = JSON.parse(content) as { pid?: unknown; host?: unknown };
    return typeof pid === 'number' && typeof host === 'string' ? { pid, host } : {};
  } catch {
    return {}; // Its holder is writing it at this moment, or died while doing so.
  }
}

function describe(content: string): string {
  const { pid, host } = holderOf(content);
  return pid === undefined ? 'another process' : `process ${pid} on ${host}`;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
