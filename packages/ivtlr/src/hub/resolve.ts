/**
 * Models and data by name: what exists on disk is taken as it is; `owner/name` comes from the Hugging Face cache, and from the hub what the cache
 * lacks.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../errors.ts';
import { cachedSnapshot, isHubName } from './cache.ts';
import type { RepoKind } from './client.ts';
import { type Downloaded, type DownloadOptions, download } from './download.ts';
import { hubSettings } from './settings.ts';

/** What a caller hears while files are fetched. */
export interface HubReport {
  /** Bytes of the repository there and in all; also once when nothing is missing. */
  progress?(repo: string, done: number, total: number): void;
  /** A line worth reading: a wait, a retry, a hub that does not answer. */
  note?(line: string): void;
  /** The repository is whole. */
  end?(repo: string, result: Downloaded): void;
}

/** What a model folder needs; not the same weights in other formats. */
export const modelFile = (path: string) => /^[^/]+\.(safetensors|json|jinja|txt)$/.test(path);
const pickleFile = (path: string) => path.endsWith('.pth');
export const dataFile = (path: string) => path.endsWith('.parquet') || path === 'README.md';

/** Endings of names that are files, never repositories. */
const FILE_NAME =
  /\.(pth|pt|bin|safetensors|gguf|parquet|jsonl?|csv|ya?ml|txt|md|m?[jt]s|py|zip|tar|gz|png|jpe?g|webp|gif)$/i;

/** What is in the cache will do when the hub does not answer soon. */
const SHORT = { tries: 3, firstWait: 1 };

/** Downloads what is missing. */
export async function fetchFromHub(
  options: Omit<DownloadOptions, 'settings'> & Partial<Pick<DownloadOptions, 'settings'>>,
  report: HubReport = {},
): Promise<Downloaded> {
  const { repo } = options;
  const result = await download({
    settings: hubSettings(),
    onProgress: (done, total) => report.progress?.(repo, done, total),
    onRetry: (message, seconds) => report.note?.(`${message}; again in ${seconds.toFixed(0)} s`),
    onWait: (message) => report.note?.(message),
    ...options,
  });
  report.end?.(repo, result);
  return result;
}

/**
 * The folder of a path or a hub name.
 * @throws UserError for a hub name that neither cache nor hub has, and for a path that looks like one but begins with a folder that is here
 */
export async function resolveFolder(
  name: string,
  kind: RepoKind,
  wanted: (path: string) => boolean,
  report: HubReport,
): Promise<string> {
  if (existsSync(name) || !isHubName(name) || FILE_NAME.test(name)) return name;
  const [owner] = name.split('/') as [string];
  const cached = cachedSnapshot(hubSettings(), kind, name);
  if (existsSync(owner) && !cached) {
    throw new UserError(
      `there is no folder ${name}: ${owner} is here and has none of that name (if ${name} is a name of the hub, run this where no ${owner} is)`,
    );
  }
  try {
    return (await fetchFromHub({ kind, repo: name, wanted, ...SHORT }, report)).folder;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    if (!cached) throw new UserError(`there is no folder ${name}, and as a name of the hub: ${error.message}`);
    report.note?.(`${error.message}; going on with ${cached.folder}`);
    return cached.folder;
  }
}

/** A folder (or file) of data. */
export function dataFolder(name: string, report: HubReport = {}): Promise<string> {
  return resolveFolder(name, 'datasets', dataFile, report);
}

/** An official checkpoint: a file, or the `.pth` of a repository of the hub. */
export async function checkpointFile(name: string, report: HubReport = {}): Promise<string> {
  const folder = await resolveFolder(name, 'models', pickleFile, report);
  if (folder === name) return name;
  const files = readdirSync(folder).filter(pickleFile);
  const chosen = files.find((file) => file === 'model.pth') ?? files[0];
  if (!chosen) throw new UserError(`${name} has no .pth file`);
  return join(folder, chosen);
}
