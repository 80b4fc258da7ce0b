/**
 * Models and data by name: what exists on disk is taken as it is; `owner/name` comes from the Hugging Face cache, and from the hub what the cache
 * lacks.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Progress } from '../cli/progress.ts';
import { UserError } from '../errors.ts';
import { isAdapterFolder, readAdapterConfig } from '../lora/adapter-folder.ts';
import { cachedSnapshot, isHubName } from './cache.ts';
import type { RepoKind } from './client.ts';
import { type Downloaded, type DownloadOptions, download } from './download.ts';
import { hubSettings } from './settings.ts';

/** What a model folder needs; not the same weights in other formats. */
const modelFile = (path: string) => /^[^/]+\.(safetensors|json|jinja|txt)$/.test(path);
const pickleFile = (path: string) => path.endsWith('.pth');
export const dataFile = (path: string) => path.endsWith('.parquet') || path === 'README.md';

/** What is in the cache will do when the hub does not answer soon. */
const SHORT = { tries: 3, firstWait: 1 };

/** Downloads what is missing, with progress on stderr and a last line when there was something to do or `licence` is given. */
export async function fetchFromHub(
  options: Omit<DownloadOptions, 'settings'> & Partial<Pick<DownloadOptions, 'settings'>>,
  licence?: string,
): Promise<Downloaded> {
  const megabytes = (bytes: number) => Math.round(bytes / 1e6);
  const { repo } = options;
  let progress: Progress | undefined;
  const result = await download({
    settings: hubSettings(),
    onProgress: (done, total) => {
      if (!progress && done === total) return;
      progress ??= new Progress({ label: repo, unit: 'MB', total: megabytes(total), initial: megabytes(done) });
      progress.update(megabytes(done));
    },
    onRetry: (message, seconds) => {
      const line = `${message}; again in ${seconds.toFixed(0)} s`;
      if (progress) progress.log(line);
      else process.stderr.write(`${line}\n`);
    },
    ...options,
  });
  const { files, bytes, fetched } = result;
  const name = licence === undefined ? repo : `${repo} (${licence})`;
  const summary = `${name}: ${files} files, ${megabytes(bytes)} MB, ${megabytes(fetched)} MB of them new`;
  if (progress) progress.finish(summary);
  else if (licence !== undefined) process.stderr.write(`${summary}\n`);
  return result;
}

/** The folder of a path or a hub name. @throws UserError for a hub name that neither cache nor hub has */
async function folderOf(name: string, kind: RepoKind, wanted: (path: string) => boolean): Promise<string> {
  if (existsSync(name) || !isHubName(name)) return name;
  try {
    return (await fetchFromHub({ kind, repo: name, wanted, ...SHORT })).folder;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const cached = cachedSnapshot(hubSettings(), kind, name);
    if (!cached) throw new UserError(`there is no folder ${name}, and as a name of the hub: ${error.message}`);
    process.stderr.write(`${error.message}; going on with ${cached.folder}\n`);
    return cached.folder;
  }
}

/** A model's folder; the base of an adapter is fetched along. */
export async function modelFolder(name: string): Promise<string> {
  const folder = await folderOf(name, 'models', modelFile);
  if (isAdapterFolder(folder)) {
    const { baseModel } = readAdapterConfig(folder);
    if (baseModel !== null) await folderOf(baseModel, 'models', modelFile);
  }
  return folder;
}

/** A folder (or file) of data. */
export function dataFolder(name: string): Promise<string> {
  return folderOf(name, 'datasets', dataFile);
}

/** An official checkpoint: a file, or the `.pth` of a repository of the hub. */
export async function checkpointFile(name: string): Promise<string> {
  const folder = await folderOf(name, 'models', pickleFile);
  if (folder === name) return name;
  const files = readdirSync(folder).filter(pickleFile);
  const chosen = files.find((file) => file === 'model.pth') ?? files[0];
  if (!chosen) throw new UserError(`${name} has no .pth file`);
  return join(folder, chosen);
}
