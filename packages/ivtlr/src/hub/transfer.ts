/** Downloads one file of the hub to the disk, going on where a dropped connection stopped. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError } from '../errors.ts';
import { type HubClient, type HubFile, reason, SILENCE_MS, TransientError } from './client.ts';
import { withLock } from './lock.ts';

/** How often a failed connection is tried again, and who is told about it. */
export interface RetryOptions {
  /** Called before a wait for a connection that failed. */
  onRetry?(message: string, seconds: number): void;
  /** Called when another process is fetching a file that is wanted here too. */
  onWait?(message: string): void;
  /** Tries in a row that may bring nothing before giving up. */
  tries?: number;
  /** Seconds before the second try; doubles up to half a minute. */
  firstWait?: number;
}

/** One file of a repository, and how it is fetched. */
export interface BlobRequest {
  client: HubClient;
  commit: string;
  file: HubFile;
  /** The repository's folder in the cache. */
  root: string;
  retry: RetryOptions;
  /** Read between chunks: true ends the transfer. */
  stopped(): boolean;
  /** Called with the bytes there are, and those of them that have just been transferred. */
  onBytes(bytes: number, fresh: number): void;
}

/**
 * Brings one blob to its place. A partial file of an earlier run is continued; if it turns out wrong, it is fetched anew once. A blob is fetched by
 * one process at a time: the others wait and find it there. The lock lies where huggingface_hub has its own, under another name, since that
 * library locks by a system call that Node does not offer.
 * @returns false when stopped
 */
export async function fetchBlob(request: BlobRequest): Promise<boolean> {
  const { root, file, retry, stopped, onBytes } = request;
  if (await isThere(root, file)) {
    onBytes(file.size, 0);
    return true;
  }
  const lock = join(dirname(root), '.locks', basename(root), `${file.hash}.ivtlr.lock`);
  const fetched = await withLock(lock, () => fetchLocked(request), {
    onWait: (holder) => retry.onWait?.(`${file.path} is being fetched by ${holder}; waiting for it`),
    stopped,
  });
  return fetched ?? false;
}

async function fetchLocked(request: BlobRequest): Promise<boolean> {
  const { root, file, retry, stopped, onBytes } = request;
  const blob = join(root, 'blobs', file.hash);
  const partial = `${blob}.incomplete`;
  if (await isThere(root, file)) {
    onBytes(file.size, 0);
    return true;
  }
  const found = (await stat(partial).catch(() => null))?.size ?? 0;
  if (found > file.size) await rm(partial);
  let continued = found > 0 && found <= file.size;
  for (;;) {
    let most = -1;
    // Only more bytes than ever before count as progress: a server that always starts the file over makes none.
    await withRetries(
      retry,
      () => fetchRest(request, partial),
      async () => {
        const now = (await stat(partial).catch(() => null))?.size ?? 0;
        const gained = now > most;
        most = Math.max(most, now);
        return gained;
      },
    );
    if (stopped()) return false;
    if ((await hashOf(partial, file)) === file.hash) break;
    await rm(partial, { force: true });
    if (!continued) {
      throw new UserError(
        `${file.path}: the bytes received do not have the hash the hub names (${file.hash}); nothing of them was kept, try again`,
      );
    }
    continued = false;
    onBytes(0, 0);
  }
  const handle = await open(partial, 'r+');
  await handle.sync();
  await handle.close();
  await rename(partial, blob);
  onBytes(file.size, 0);
  return true;
}

async function isThere(root: string, { hash, size }: HubFile): Promise<boolean> {
  return (await stat(join(root, 'blobs', hash)).catch(() => null))?.size === size;
}

/** One connection's worth of bytes, appended. Returns when the file has its full size. */
async function fetchRest({ client, commit, file, stopped, onBytes }: BlobRequest, partial: string): Promise<void> {
  if (stopped()) return;
  const handle = await open(partial, 'a');
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(new Error(`silence of ${SILENCE_MS / 1000} seconds`)), SILENCE_MS);
  try {
    let at = (await handle.stat()).size;
    if (at === file.size) return;
    const response = await client.open(commit, file, at, silence.signal);
    const start = Number(/^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1] ?? Number.NaN);
    if (response.status === 206 ? start !== at : at > 0 || response.status !== 200) {
      // The server sent the whole file instead of the rest: start from the first byte.
      await handle.truncate(0);
      at = 0;
      if (response.status !== 200) {
        await response.body?.cancel();
        throw new TransientError(`${file.path}: the server did not continue where it was asked to`);
      }
    }
    if (response.body) {
      for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
        if (stopped()) return;
        if (at + chunk.length > file.size) {
          await handle.truncate(0);
          throw new UserError(`${file.path}: the server sends more than the ${file.size} bytes the hub lists`);
        }
        await handle.appendFile(chunk);
        at += chunk.length;
        onBytes(at, chunk.length);
        timer.refresh();
      }
    }
    if (at < file.size) throw new TransientError(`${file.path}: the connection ended at byte ${at} of ${file.size}`);
  } catch (error) {
    if (error instanceof UserError || error instanceof TransientError || isDiskError(error)) throw error;
    throw new TransientError(`${file.path}: ${reason(error)}`);
  } finally {
    clearTimeout(timer);
    await handle.close();
  }
}

/** Tries until it works, `tries` times in a row without progress at most. */
export async function withRetries<T>(
  { tries = 6, firstWait = 1, onRetry }: RetryOptions,
  attempt: () => Promise<T>,
  progressed: () => Promise<boolean> = async () => false,
): Promise<T> {
  await progressed();
  for (let failed = 1; ; failed++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof TransientError)) throw error;
      if (await progressed()) failed = 1;
      if (failed >= tries) throw new UserError(`${error.message}; gave up after ${tries} tries`);
      const seconds = Math.max(error.waitSeconds, Math.min(30, firstWait * 2 ** (failed - 1)));
      onRetry?.(error.message, seconds);
      await sleep(seconds * 1000);
    }
  }
}

/** SHA-256, or for small files the SHA-1 git gives them. */
async function hashOf(path: string, { hash, size }: HubFile): Promise<string> {
  const digest = createHash(hash.length === 64 ? 'sha256' : 'sha1');
  if (hash.length === 40) digest.update(`blob ${size}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) digest.update(chunk as Buffer);
  return digest.digest('hex');
}

function isDiskError(error: unknown): boolean {
  const { code, syscall } = error as NodeJS.ErrnoException;
  return typeof code === 'string' && ['write', 'open', 'ftruncate', 'fsync'].includes(syscall ?? '');
}
