/** A worker's log. One that cannot be written any more, as on a full disk, ends there, and the worker goes on. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { UserError } from '../errors.ts';

export class Log {
  readonly #path: string;
  readonly #note: (line: string) => void;
  #handle: number | null;

  /** @throws UserError when the file cannot be opened */
  constructor(path: string, note: (line: string) => void) {
    this.#path = path;
    this.#note = note;
    try {
      this.#handle = openSync(path, 'a');
    } catch (error) {
      throw new UserError(`cannot write ${path}: ${(error as Error).message}`);
    }
  }

  write(line: string): void {
    if (this.#handle === null) return;
    try {
      writeSync(this.#handle, `${line}\n`);
    } catch (error) {
      this.close();
      this.#note(`cannot write ${this.#path} any more: ${(error as Error).message}`);
    }
  }

  close(): void {
    if (this.#handle !== null) closeSync(this.#handle);
    this.#handle = null;
  }
}
