/** Files of the hub into its cache, in the layout of Python's huggingface_hub, so that both programs share what is there. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs, symlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';
import { HubClient, type HubFile, type Listing, type RepoKind, reason, SILENCE_MS, TransientError } from './client.ts';
import type { HubSettings } from './settings.ts';

export interface DownloadOptions {
  kind: RepoKind;
  /** `owner/name` */
  repo: string;
  /** Branch, tag or commit. Default `main`. */
  revision?: string;
  /** Which files; default all. */
  wanted?(path: string): boolean;
  settings: HubSettings;
  /** Bytes there and bytes in all; what an earlier run left counts from the start. */
  onProgress?(done: number, total: number): void;
  /** Called before a wait for a connection that failed. */
  onRetry?(message: string, seconds: number): void;
  /** Files fetched at once. */
  parallel?: number;
  /** Tries in a row that may bring nothing before giving up. */
  tries?: number;
  /** Seconds before the second try; doubles up to half a minute. */
  firstWait?: number;
}

export interface Downloaded {
  /** The snapshot: a folder with the repository's own names. */
  folder: string;
  commit: string;
  files: number;
  bytes: number;
  /** Bytes that came over the line this time. */
  fetched: number;
}

/**
 * Downloads what is missing and returns the snapshot folder. Partial files are continued, every file is checked against the hub's hash before it
 * appears under its name, and `refs/` names the snapshot only when all of it is there. Offline, the snapshot must be there already.
 * @throws UserError: not found, no access, no connection, disk full, wrong bytes, or offline and not in the cache.
 */
export async function download(options: DownloadOptions): Promise<Downloaded> {
  const { kind, repo, settings, revision = 'main', wanted = () => true } = options;
  if (!/^[\w.-]+\/[\w.-]+$/.test(repo)) throw new UserError(`a hub name should be owner/name, not ${repo}`);
  if (!/^\w[\w.-]*(\/\w[\w.-]*)*$/.test(revision) || revision.includes('..')) {
    throw new UserError(`a revision should be a branch, tag or commit, not ${revision}`);
  }
  const root = join(settings.cache, `${kind}--${repo.replace('/', '--')}`);
  if (settings.offline) return cached(root, repo, revision);
  const client = new HubClient(settings, kind, repo);
  const listing = await patiently(options, () => client.list(revision));
  const files = listing.files.filter(({ path }) => wanted(path));
  if (files.length === 0) throw new UserError(`${repo} at ${revision} has none of the files looked for`);
  return fetchAll(root, client, { ...listing, files }, revision, options);
}

async function cached(root: string, repo: string, revision: string): Promise<Downloaded> {
  const commit = await readFile(join(root, 'refs', revision), 'utf8').catch(() => revision);
  const folder = join(root, 'snapshots', commit.trim());
  const names = await readdir(folder, { recursive: true }).catch(() => []);
  let files = 0;
  let bytes = 0;
  for (const name of names) {
    const found = await stat(join(folder, name)).catch(() => null);
    if (!found) throw new UserError(`${join(folder, name)} points nowhere: unset HF_HUB_OFFLINE and download again`);
    if (found.isFile()) files++;
    if (found.isFile()) bytes += found.size;
  }
  if (files === 0) {
    throw new UserError(`${repo} at ${revision} is not in the cache ${dirname(root)}, and HF_HUB_OFFLINE is set`);
  }
  return { folder, commit: commit.trim(), files, bytes, fetched: 0 };
}

async function fetchAll(
  root: string,
  client: HubClient,
  { commit, files }: Listing,
  revision: string,
  options: DownloadOptions,
): Promise<Downloaded> {
  const folder = join(root, 'snapshots', commit);
  const total = files.reduce((sum, file) => sum + file.size, 0);
  const have = new Map<string, number>();
  let fetched = 0;
  const report = () =>
    options.onProgress?.(
      [...have.values()].reduce((sum, bytes) => sum + bytes, 0),
      total,
    );
  try {
    await mkdir(join(root, 'blobs'), { recursive: true });
    for (const file of files) have.set(file.path, await sizeThere(root, file));
    await requireSpace(root, total - [...have.values()].reduce((sum, bytes) => sum + bytes, 0));
    report();
    // Two files with the same bytes share a blob, which must not be written twice at once.
    const byHash = new Map<string, HubFile[]>();
    for (const file of files) byHash.set(file.hash, [...(byHash.get(file.hash) ?? []), file]);
    await inParallel([...byHash.values()], options.parallel ?? 4, async (same, stopped) => {
      const whole = await fetchBlob(root, client, commit, same[0]!, options, stopped, (bytes, fresh) => {
        for (const { path } of same) have.set(path, bytes);
        fetched += fresh;
        report();
      });
      if (whole) for (const { path, hash } of same) await linkFile(join(folder, path), join(root, 'blobs', hash));
    });
    if (revision !== commit) writeFileAtomic(join(root, 'refs', revision), commit);
  } catch (error) {
    throw explainDisk(error, root);
  }
  return { folder, commit, files: files.length, bytes: total, fetched };
}

async function sizeThere(root: string, { hash, size }: HubFile): Promise<number> {
  const blob = join(root, 'blobs', hash);
  if (existsSync(blob)) return size;
  return Math.min(size, (await stat(`${blob}.incomplete`).catch(() => null))?.size ?? 0);
}

async function requireSpace(root: string, needed: number): Promise<void> {
  const { bavail, bsize } = await statfs(root);
  if (bavail * bsize < needed)
    throw new UserError(`${root}: ${megabytes(needed)} are needed, but only ${megabytes(bavail * bsize)} are free`);
}

/**
 * Brings one blob to its place. A partial file of an earlier run is continued; if it turns out wrong, it is fetched anew once. False when stopped.
 */
async function fetchBlob(
  root: string,
  client: HubClient,
  commit: string,
  file: HubFile,
  options: DownloadOptions,
  stopped: () => boolean,
  onBytes: (bytes: number, fresh: number) => void,
): Promise<boolean> {
  const blob = join(root, 'blobs', file.hash);
  const partial = `${blob}.incomplete`;
  if ((await stat(blob).catch(() => null))?.size === file.size) return true;
  const found = (await stat(partial).catch(() => null))?.size ?? 0;
  if (found > file.size) await rm(partial);
  let continued = found > 0 && found <= file.size;
  for (;;) {
    let before = -1;
    // Bytes gained count as success: only a line that brings nothing is given up.
    await patiently(
      options,
      () => fetchRest(client, commit, file, partial, stopped, onBytes),
      async () => {
        const now = (await stat(partial).catch(() => null))?.size ?? 0;
        const gained = now > before;
        before = now;
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

/** One connection's worth of bytes, appended. Returns when the file has its full size. */
async function fetchRest(
  client: HubClient,
  commit: string,
  file: HubFile,
  partial: string,
  stopped: () => boolean,
  onBytes: (bytes: number, fresh: number) => void,
): Promise<void> {
  if (stopped()) return;
  const handle = await open(partial, 'a');
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(new Error(`silence of ${SILENCE_MS / 1000} seconds`)), SILENCE_MS);
  try {
    let at = (await handle.stat()).size;
    if (at === file.size) return;
    const response = await client.open(commit, file, at, silence.signal);
    const start = Number(/^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1] ?? Number.NaN);
    if (at > 0 && (response.status !== 206 || start !== at)) {
      // The server does not continue: all over again.
      await handle.truncate(0);
      at = 0;
      if (response.status !== 200) {
        await response.body?.cancel();
        throw new TransientError(`${file.path}: the server did not continue where it was asked to`);
      }
    }
    if (response.body) {
      for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
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
async function patiently<T>(
  { tries = 6, firstWait = 1, onRetry }: DownloadOptions,
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

/** A relative link, so that the cache can be moved. */
async function linkFile(path: string, blob: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await rm(path, { force: true });
  await symlink(relative(dirname(path), blob), path);
}

/** Works through the items, some at once. The first failure stops the others, and is thrown when they have come to rest. */
async function inParallel<T>(
  items: readonly T[],
  parallel: number,
  work: (item: T, stopped: () => boolean) => Promise<void>,
): Promise<void> {
  const waiting = [...items];
  let failure: { error: unknown } | undefined;
  const worker = async () => {
    for (let item = waiting.shift(); item !== undefined && !failure; item = waiting.shift()) {
      try {
        await work(item, () => failure !== undefined);
      } catch (error) {
        failure ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(parallel, items.length) }, worker));
  if (failure) throw failure.error;
}

function isDiskError(error: unknown): boolean {
  const { code, syscall } = error as NodeJS.ErrnoException;
  return typeof code === 'string' && ['write', 'open', 'ftruncate', 'fsync'].includes(syscall ?? '');
}

function explainDisk(error: unknown, root: string): unknown {
  const { code, message } = error as NodeJS.ErrnoException;
  if (error instanceof UserError || code === undefined) return error;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new UserError(`the disk of ${root} is full; make room and start again, what is there is kept`);
  }
  return new UserError(`cannot write ${root}: ${message}`);
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}
