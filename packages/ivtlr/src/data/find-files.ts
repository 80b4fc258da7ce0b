/** Which files of a folder hold a split. */
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { UserError } from '../errors.ts';

/** Read in this order of preference: a folder with Parquet files may hold JSON lines for another purpose. */
const EXTENSIONS = ['.parquet', '.jsonl'] as const;

/**
 * Data files in reading order. `path` is a file, or a folder that holds them itself or in `data/`, as a download from the hub does. With `split`,
 * files named `<split>.parquet`, `<split>-00000-of-00003.parquet` or `<split>.jsonl`; a file named by itself is taken whatever its name.
 * @throws UserError when there is nothing to read, naming the splits there are.
 */
export async function findDataFiles(path: string, split?: string): Promise<string[]> {
  const found = await stat(path).catch(() => null);
  if (!found) throw new UserError(`data not found: ${path}`);
  if (found.isFile()) return [path];
  const present: string[] = [];
  for (const folder of [path, join(path, 'data')]) {
    const names = await readdir(folder).catch(() => []);
    present.push(...names.map((name) => join(folder, name)));
  }
  present.sort();
  const files = EXTENSIONS.map((extension) => present.filter((file) => file.endsWith(extension))).find(
    (matching) => matching.length > 0,
  );
  if (!files) throw new UserError(`no .parquet or .jsonl file in ${path} or its folder data`);
  if (split === undefined) return files;
  const chosen = files.filter((file) => splitOf(file) === split);
  if (chosen.length === 0) {
    const splits = [...new Set(files.map(splitOf))].join(', ');
    throw new UserError(`no file of split ${split} in ${path}; the files are of ${splits}`);
  }
  return chosen;
}

/** `train` of `train-00000-of-00002-a1b2.parquet`. */
function splitOf(file: string): string {
  return basename(file).replace(/(-\d.*)?\.(parquet|jsonl)$/, '');
}
