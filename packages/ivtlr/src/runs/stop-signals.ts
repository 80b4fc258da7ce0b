/** Signals that ask a run to stop: from the terminal, from a job scheduler, or because the terminal is gone. */
import { constants } from 'node:os';

const NAMES = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Listens until it is disposed. The first signal is only noted, for the run to finish its step and write a checkpoint; a second one ends the
 * process as usual, or where `onlyFirst` is set does nothing: a scheduler that signals every process of a job reaches a worker itself and
 * through its launcher, which ends it if need be.
 */
export class StopSignals implements Disposable {
  received: NodeJS.Signals | null = null;
  readonly #handle = (name: NodeJS.Signals) => {
    if (this.received !== null) return;
    this.received = name;
    if (!this.#onlyFirst) this[Symbol.dispose]();
    this.#note(name);
  };
  readonly #note: (signal: NodeJS.Signals) => void;
  readonly #onlyFirst: boolean;

  constructor(note: (signal: NodeJS.Signals) => void, { onlyFirst = false } = {}) {
    this.#note = note;
    this.#onlyFirst = onlyFirst;
    for (const name of NAMES) process.on(name, this.#handle);
  }

  [Symbol.dispose](): void {
    for (const name of NAMES) process.off(name, this.#handle);
  }
}

/** What a shell reports for a program that a signal has ended: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP. */
export function exitCodeOf(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}
