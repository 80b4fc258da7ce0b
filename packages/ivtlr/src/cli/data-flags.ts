/** Flags and messages that the `ivtlr data` commands share. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { BadRows } from '../data/row.ts';

export interface BadRowFlags {
  onBadRow: 'error' | 'skip';
}

export function addBadRowFlag(command: Command): Command {
  return command.addOption(
    new Option('--on-bad-row <what>', 'unreadable rows and images: stop, or leave them out and count them')
      .choices(['error', 'skip'])
      .default('error'),
  );
}

/** Most bad rows that are named one by one. */
const NAMED = 10;

/** Counts what is left out. */
export class SkippedRows {
  rows = 0;
  readonly reasons: BadRows[] = [];

  /** For `streamSamples`; undefined when bad rows are errors. */
  handler({ onBadRow }: BadRowFlags): ((bad: BadRows) => void) | undefined {
    if (onBadRow === 'error') return undefined;
    return (bad) => {
      this.rows += bad.rows;
      if (this.reasons.length < NAMED) this.reasons.push(bad);
    };
  }

  /** Says on stderr what was left out, if anything. */
  report(): void {
    if (this.rows === 0) return;
    for (const { message } of this.reasons) process.stderr.write(`skipped: ${message}\n`);
    process.stderr.write(`${this.rows} ${this.rows === 1 ? 'row was' : 'rows were'} skipped\n`);
  }
}

export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('should be a whole number.');
  return Number(text);
}
