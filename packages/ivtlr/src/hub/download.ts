/** Files of the hub into its cache, in the layout of Python's huggingface_hub, so that both programs share what is there. */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readlink, rename, rm, stat, statfs, symlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { UserError } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';
import { cachedSnapshot, isHubName, repositoryFolder } from './cache.ts';
import { HubClient, type HubFile, type Listing, type RepoKind } from './client.ts';
import type { HubSettings } from './settings.ts';
import { fetchBlob, type RetryOptions, withRetries } from './transfer.ts';

export interface DownloadOptions extends RetryOptions {
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
  /** Files fetched at once. */
  parallel?: number;
}

export interface Downloaded {
  /** The snapshot: a folder with the repository's own names. */
  folder: string;
  commit: string;
  files: number;
  bytes: number;
  /** Bytes transferred this time. */
  fetched: number;
}

/**
 * Downloads what is missing and returns the snapshot folder. Partial files are continued, every file is checked against the hub's hash before it
 * appears under its name, and `refs/` names the snapshot only when all of it is there. Offline, the snapshot must be there already.
 * @throws UserError: not found, no access, no connection, disk full, wrong bytes, or offline and not in the cache.
 */
export async function download(options: DownloadOptions): Promise<Downloaded> {
  const { kind, repo, settings, revision = 'main', wanted = () => true } = options;
  if (!isHubName(repo)) throw new UserError(`a hub name should be owner/name, not ${repo}`);
  if (!/^\w[\w.-]*(\/\w[\w.-]*)*$/.test(revision) || revision.includes('..')) {
    throw new UserError(`a revision should be a branch, tag or commit, not ${revision}`);
  }
  if (settings.offline) return cached(options, revision);
  const root = repositoryFolder(settings, kind, repo);
  const client = new HubClient(settings, kind, repo);
  const listing = await withRetries(options, () => client.list(revision));
  const files = listing.files.filter(({ path }) => wanted(path));
  if (files.length === 0) throw new UserError(`${repo} at ${revision} has none of the files looked for`);
  return fetchAll(root, client, { ...listing, files }, revision, options);
}

async function cached({ settings, kind, repo }: DownloadOptions, revision: string): Promise<Downloaded> {
  const found = cachedSnapshot(settings, kind, repo, revision);
  if (!found)
    throw new UserError(`${repo} at ${revision} is not in the cache ${settings.cache}, and HF_HUB_OFFLINE is set`);
  const { folder, commit } = found;
  const names = await readdir(folder, { recursive: true }).catch(() => []);
  let files = 0;
  let bytes = 0;
  for (const name of names) {
    const found = await stat(join(folder, name)).catch(() => null);
    if (!found) throw new UserError(`${join(folder, name)} points nowhere: unset HF_HUB_OFFLINE and download again`);
    if (found.isFile()) files++;
    if (found.isFile()) bytes += found.size;
  }
  return { folder, commit, files, bytes, fetched: 0 };
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
      const whole = await fetchBlob({
        ...{ client, commit, root, stopped, file: same[0]!, retry: options },
        onBytes: (bytes, fresh) => {
          for (const { path } of same) have.set(path, bytes);
          fetched += fresh;
          report();
        },
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

/** A relative link, so that the cache can be moved; renamed into place, since another process may be doing the same. */
async function linkFile(path: string, blob: string): Promise<void> {
  const target = relative(dirname(path), blob);
  if ((await readlink(path).catch(() => null)) === target) return;
  await mkdir(dirname(path), { recursive: true });
  const made = join(dirname(path), `.${randomBytes(6).toString('hex')}.tmp`);
  await symlink(target, made);
  await rename(made, path).catch(async (error) => {
    await rm(made, { force: true });
    throw error;
  });
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
