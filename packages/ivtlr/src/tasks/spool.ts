/** A temporary file without a name; the system removes it when the last process that has it open ends, however that happens. */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../errors.ts';

export class Spool implements Disposable {
  readonly #handle: number;
  #end = 0;

  /** A new file, or one that another process of this machine has made, by that one's `path`. */
  constructor(path?: string) {
    if (path === undefined) {
      const folder = mkdtempSync(join(tmpdir(), 'ivtlr-rows-'));
      this.#handle = openSync(join(folder, 'spool'), 'w+');
      rmSync(folder, { recursive: true });
    } else this.#handle = openSync(path, 'r');
    registry.register(this, this.#handle, this);
  }

  /** Where other processes of this user and machine can open it, as long as it is open here (Linux). */
  get path(): string {
    return `/proc/${process.pid}/fd/${this.#handle}`;
  }

  /** Bytes. */
  get length(): number {
    return this.#end;
  }

  /** @returns where the bytes begin. @throws UserError when they cannot be written, as on a full disk */
  write(bytes: Uint8Array): number {
    const start = this.#end;
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#handle, bytes, at, bytes.length - at, start + at);
    } catch (error) {
      throw new UserError(
        `rows of the data wait in a temporary file in ${tmpdir()} (TMPDIR), which cannot be written: ${(error as Error).message}`,
      );
    }
    this.#end += bytes.length;
    return start;
  }

  read(start: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const count = readSync(this.#handle, bytes, at, length - at, start + at);
      if (count === 0) throw new Error('the temporary file of rows was cut short');
      at += count;
    }
    return bytes;
  }

  [Symbol.dispose](): void {
    if (registry.unregister(this)) closeSync(this.#handle);
  }
}

const registry = new FinalizationRegistry((handle: number) => closeSync(handle));
