/** What answers depend on, in parts, so that stored answers are taken up only by a run that would give the same ones. */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { UserError } from '../errors.ts';

/** Part -> what it is, such as `mode` -> `ivt-lr`. */
export type RunKey = Readonly<Record<string, string>>;

/** Parts that are not the same in both, with both values. */
export function differingParts(theirs: RunKey, ours: RunKey): [part: string, theirs: string, ours: string][] {
  const parts = [...new Set([...Object.keys(ours), ...Object.keys(theirs)])];
  return parts
    .filter((part) => theirs[part] !== ours[part])
    .map((part) => [part, theirs[part] ?? 'nothing', ours[part] ?? 'nothing']);
}

/** Larger files are not read as a whole, since reading gigabytes of weights takes long. */
const READ_UP_TO = 16 * 2 ** 20;
const SAMPLES = 64;
const SAMPLE_BYTES = 4096;

/**
 * A short hash of the files' names and contents; of large files size and time of change.
 * @param copies take copies of a file for the same, which have other times of change: of large files size and some pages, evenly spaced
 */
export function fingerprint(files: readonly string[], copies = false): string {
  const hash = createHash('sha256');
  for (const file of files) {
    try {
      const { size, mtimeMs } = statSync(file);
      const whole = () => createHash('sha256').update(readFileSync(file)).digest('hex');
      const part = () => (copies ? sampled(file, size) : String(mtimeMs));
      const content = size > READ_UP_TO ? part() : whole();
      hash.update(`${basename(file)}\0${size}\0${content}\n`);
    } catch (error) {
      throw new UserError(`cannot read ${file}: ${(error as Error).message}`);
    }
  }
  return hash.digest('hex').slice(0, 16);
}

function sampled(file: string, size: number): string {
  const hash = createHash('sha256');
  const page = Buffer.alloc(SAMPLE_BYTES);
  const fd = openSync(file, 'r');
  try {
    for (let i = 0; i < SAMPLES; i++) {
      const read = readSync(fd, page, 0, SAMPLE_BYTES, Math.floor((i * (size - SAMPLE_BYTES)) / (SAMPLES - 1)));
      hash.update(page.subarray(0, read));
    }
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex');
}

const modelFile = /\.(safetensors|json|jinja|txt)$/;

/** Whether the path leads to a file; a link that leads nowhere does not, and one that loops is an error. */
function isFile(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
  } catch (error) {
    throw new UserError(`cannot read ${path}: ${(error as Error).message}`);
  }
}

/** Of the files that stand in the folders of a model: weights, adapter, configuration, tokenizer, settings. */
export function modelFingerprint(folders: readonly string[], copies = false): string {
  const files = [...new Set(folders)].flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => modelFile.test(name))
      .sort()
      .map((name) => join(folder, name))
      .filter(isFile),
  );
  return fingerprint(files, copies);
}
