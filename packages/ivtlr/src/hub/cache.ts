/** What the cache of huggingface_hub has of a repository. */
import { existsSync, lstatSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../errors.ts';
import type { RepoKind } from './client.ts';
import type { HubSettings } from './settings.ts';

/** `owner/name`, as the hub writes its repositories. */
export function isHubName(text: string): boolean {
  return /^[\w.-]+\/[\w.-]+$/.test(text) && !text.split('/').some((part) => /^\.+$/.test(part));
}

/** The repository's folder in the cache, there or not. */
export function repositoryFolder({ cache }: Pick<HubSettings, 'cache'>, kind: RepoKind, repo: string): string {
  return join(cache, `${kind}--${repo.replace('/', '--')}`);
}

const isPlainName = (text: string) => /^[\w.-]+$/.test(text) && !/^\.+$/.test(text);

/** The commit that a ref file names. It becomes part of a path, so it must be a plain name. */
function readRef(ref: string): string {
  let text: string;
  try {
    text = readFileSync(ref, 'utf8').trim();
  } catch (error) {
    throw new UserError(`cannot read ${ref}: ${(error as Error).message}`);
  }
  if (!isPlainName(text)) throw new UserError(`${ref} should hold the name of a commit; remove it to fetch it anew`);
  return text;
}

/** Commit and folder of the snapshot that a branch, tag or commit had when it was fetched; null when the cache has none. */
export function cachedSnapshot(
  settings: Pick<HubSettings, 'cache'>,
  kind: RepoKind,
  repo: string,
  revision = 'main',
): { folder: string; commit: string } | null {
  const root = repositoryFolder(settings, kind, repo);
  const ref = join(root, 'refs', revision);
  const commit = lstatSync(ref, { throwIfNoEntry: false }) ? readRef(ref) : revision;
  if (!isPlainName(commit)) return null;
  const folder = join(root, 'snapshots', commit);
  return existsSync(folder) ? { folder, commit } : null;
}
