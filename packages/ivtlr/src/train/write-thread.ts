/** The thread that brings a checkpoint to the disk. It needs no libtorch: what it writes are plain bytes. */
import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, rmdirSync, rmSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import type { FrozenFile } from '../file-contents.ts';
import { partialFolder, putInPlace, writeFileAtomic } from '../files.ts';
import { checkpointName, latestFile } from './checkpoint-names.ts';

export type WriteJob =
  /** Writes files into the partial folder, which other processes may write into too. */
  | { kind: 'write'; folder: string; files: FrozenFile[] }
  /** Makes the partial folder, in which all files are, the latest checkpoint and removes all but the newest `keep`. */
  | { kind: 'complete'; folder: string; keep: number };

/** Null, or why the job failed. */
export type WriteResult = string | null;

function write(folder: string, files: readonly FrozenFile[]): void {
  const partial = partialFolder(folder);
  const begun: string[] = [];
  try {
    makePartial(partial);
    for (const { name, parts } of files) {
      const path = join(partial, name);
      begun.push(path);
      writeParts(path, parts);
    }
  } catch (error) {
    // A full disk gets its room back; what other processes have written stays theirs.
    try {
      for (const path of begun) rmSync(path, { force: true });
      rmdirSync(partial);
    } catch {
      // The next start removes it.
    }
    throw error;
  }
}

function makePartial(partial: string): void {
  try {
    mkdirSync(partial);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

function writeParts(path: string, parts: readonly Uint8Array[]): void {
  const file = openSync(path, 'w');
  try {
    for (const bytes of parts) {
      // One write call moves at most 2 GiB.
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at, Math.min(bytes.length - at, 2 ** 26));
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

function complete(folder: string, keep: number): void {
  const root = dirname(folder);
  const name = folder.slice(root.length + 1);
  putInPlace(folder);
  writeFileAtomic(join(root, latestFile), `${name}\n`);
  const names = readdirSync(root).filter((entry) => checkpointName.test(entry));
  names.sort();
  for (const old of names.filter((entry) => entry !== name).slice(0, Math.max(0, names.length - keep))) {
    rmSync(join(root, old), { recursive: true });
  }
}

const job = workerData as WriteJob;
let result: WriteResult = null;
try {
  if (job.kind === 'write') write(job.folder, job.files);
  else complete(job.folder, job.keep);
} catch (error) {
  result = (error as Error).message;
}
parentPort!.postMessage(result);
