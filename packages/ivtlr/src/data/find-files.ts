/** Which files of a folder hold a split. */
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { UserError } from '../errors.ts';

/** Read in this order of preference: a folder with Parquet files may hold JSON for another purpose. */
const EXTENSIONS = ['.parquet', '.jsonl', '.json'] as const;
/** Lists of data sets, as LLaMA-Factory and the hub keep them beside the data. */
const NO_DATA = /^dataset_infos?\.json$/;

/**
 * Data files in reading order. `path` is a file, or a folder that holds them itself or in `data/`, as a download from the hub does. With `split`,
 * files named `<split>.parquet`, `<split>-00000-of-00003.parquet`, `<split>.jsonl` or `<split>.json`; a file named by itself is taken whatever its name.
 * @throws UserError when there is nothing to read, naming the splits there are.
 */
export async function findDataFiles(path: string, split?: string): Promise<string[]> {
  const found = await stat(path).catch(() => null);
  if (!found) throw new UserError(`data not found: ${path}`);
  if (found.isFile()) return [path];
  const files = await filesOf(path);
  if (split === undefined) return files;
  const chosen = files.filter((file) => splitOf(file) === split);
  if (chosen.length === 0) {
    throw new UserError(`no file of split ${split} in ${path}; the files are of ${splitsOf(files).join(', ')}`);
  }
  return chosen;
}

/**
 * The split to take when none is asked for: `preferred` if a folder has it, else the only one there is; of a file its own.
 * @throws UserError when there are several others, or nothing to read.
 */
export async function defaultSplit(path: string, preferred: string): Promise<string> {
  const splits = splitsOf(await findDataFiles(path));
  if (splits.includes(preferred)) return preferred;
  if (splits.length > 1) {
    throw new UserError(`no file of split ${preferred} in ${path}; choose one of ${splits.join(', ')} with --split`);
  }
  return splits[0]!;
}

async function filesOf(path: string): Promise<string[]> {
  const present: string[] = [];
  for (const folder of [path, join(path, 'data')]) {
    const names = await readdir(folder).catch(() => []);
    present.push(...names.filter((name) => !NO_DATA.test(name)).map((name) => join(folder, name)));
  }
  present.sort();
  const files = EXTENSIONS.map((extension) => present.filter((file) => file.endsWith(extension))).find(
    (matching) => matching.length > 0,
  );
  if (!files) throw new UserError(`no .parquet, .jsonl or .json file in ${path} or its folder data`);
  return files;
}

function splitsOf(files: readonly string[]): string[] {
  return [...new Set(files.map(splitOf))];
}

/** `train` of `train-00000-of-00002-a1b2.parquet`. */
function splitOf(file: string): string {
  return basename(file).replace(/(-\d.*)?\.(parquet|jsonl?)$/, '');
}
