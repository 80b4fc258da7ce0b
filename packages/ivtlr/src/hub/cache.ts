/** What the cache of huggingface_hub has of a repository. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
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

/** Commit and folder of the snapshot that a branch, tag or commit had when it was fetched; null when the cache has none. */
export function cachedSnapshot(
  settings: Pick<HubSettings, 'cache'>,
  kind: RepoKind,
  repo: string,
  revision = 'main',
): { folder: string; commit: string } | null {
  const root = repositoryFolder(settings, kind, repo);
  const ref = join(root, 'refs', revision);
  const commit = existsSync(ref) ? readFileSync(ref, 'utf8').trim() : revision;
  const folder = join(root, 'snapshots', commit);
  return existsSync(folder) ? { folder, commit } : null;
}
