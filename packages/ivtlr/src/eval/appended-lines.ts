/** A file of JSON lines that grows while questions are answered, so that a stopped run can go on from it. */
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { UserError } from '../errors.ts';
import { makeFolder, readBytes, writeFileAtomic } from '../files.ts';

/** What to do with a file that has content: refuse it, go on after its lines, or replace it with the first new lines. */
export type WhenPresent = 'refuse' | 'resume' | 'overwrite';

export interface PresentLine {
  value: Record<string, unknown>;
  /** File and line, for error messages. */
  place: string;
}

export class AppendedLines {
  /** What the file held, with `resume`. */
  readonly present: readonly PresentLine[];
  readonly #path: string;
  readonly #handle: number;
  /** Bytes of the old content to keep when the first new lines come; until then the file stays as it is. Null when nothing has to go. */
  #keep: number | null;
  /** Bytes that the file should have: another process that writes to it is noticed. */
  #size: number;
  #waiting: string[] = [];

  /** @throws UserError when the file cannot be written, is there and should not be, or with `resume` holds what are no JSON lines */
  constructor(path: string, whenPresent: WhenPresent) {
    this.#path = path;
    if (whenPresent === 'refuse') refuseExisting(path);
    const { present, keep } = whenPresent === 'resume' ? readPresent(path) : { present: [], keep: 0 };
    this.present = present;
    this.#keep = whenPresent === 'refuse' ? null : keep;
    makeFolder(dirname(path));
    try {
      this.#handle = openSync(path, 'a');
      this.#size = fstatSync(this.#handle).size;
    } catch (error) {
      throw this.#cannotWrite(error);
    }
  }

  /** Keeps a line until `flush`. */
  add(value: unknown): void {
    this.#waiting.push(`${JSON.stringify(value)}\n`);
  }

  /** Writes what waits through to the disk: one write, so that a stop between two of them leaves whole lines. */
  flush(): void {
    if (this.#waiting.length === 0) return;
    const bytes = Buffer.from(this.#waiting.join(''), 'utf8');
    this.#waiting = [];
    try {
      const found = fstatSync(this.#handle);
      if (found.isFile() && found.size !== this.#size) {
        throw new UserError(`another process has written to ${this.#path} meanwhile; give each run a file of its own`);
      }
      if (this.#keep !== null && found.size > this.#keep) ftruncateSync(this.#handle, this.#keep);
      this.#keep = null;
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#handle, bytes, at);
      // Pipes and devices such as /dev/stdout cannot be synced.
      if (found.isFile()) fsyncSync(this.#handle);
      this.#size = fstatSync(this.#handle).size;
    } catch (error) {
      throw error instanceof UserError ? error : this.#cannotWrite(error);
    }
  }

  /** Replaces the file by one with its lines in the order of `key`. Nothing can be added after it. Pipes and devices stay as they are. */
  sortBy(key: (line: unknown) => number): void {
    this.flush();
    if (!fstatSync(this.#handle).isFile() || this.#keep !== null) return;
    const lines = readFileSync(this.#path, 'utf8')
      .split('\n')
      .slice(0, -1)
      .map((text) => ({ text, key: key(JSON.parse(text)) }));
    if (lines.every((line, at) => at === 0 || lines[at - 1]!.key <= line.key)) return;
    lines.sort((a, b) => a.key - b.key);
    writeFileAtomic(this.#path, lines.map(({ text }) => `${text}\n`).join(''));
  }

  close(): void {
    try {
      this.flush();
    } finally {
      closeSync(this.#handle);
    }
  }

  #cannotWrite(error: unknown): UserError {
    return new UserError(`cannot write ${this.#path}: ${(error as Error).message}`);
  }
}

/** @throws UserError when a file with content stands there; an empty one, as a run that failed early leaves it, may be used */
export function refuseExisting(path: string): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isFile() && found.size > 0) {
    throw new UserError(`${path} is there already; give another name, or --overwrite to replace it`);
  }
}

function readPresent(path: string): { present: PresentLine[]; keep: number } {
  if (!statSync(path, { throwIfNoEntry: false })) return { present: [], keep: 0 };
  const bytes = readBytes(path, 'file of answers');
  // A line without its end was cut off by a crash; its question is asked again.
  const end = bytes.lastIndexOf(0x0a) + 1;
  const lines = new TextDecoder().decode(bytes.subarray(0, end)).split('\n').slice(0, -1);
  const present = lines.map((text, at) => {
    const place = `${path}, line ${at + 1}`;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw new UserError(`${place}: this is no JSON, so there is nothing to go on from`);
    }
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new UserError(`${place}: this is no answer, so there is nothing to go on from`);
    }
    return { value: value as Record<string, unknown>, place };
  });
  return { present, keep: end };
}
