/** Flags and messages of the commands that read data. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { BadRows } from '../data/row.ts';
import { printable } from '../printable.ts';

export interface ReadingFlags {
  onBadRow: 'error' | 'skip';
  /** The task's column -> its name in the files. */
  column?: Readonly<Record<string, string>>;
}

export function addReadingFlags(command: Command): Command {
  return command
    .option(
      '--column <task-column=name>',
      'a column that has another name in the files, such as question=prompt; may be given several times',
      columnName,
    )
    .addOption(
      new Option('--on-bad-row <what>', 'rows and images that cannot be used: stop, or leave them out and count them')
        .choices(['error', 'skip'])
        .default('error'),
    );
}

/** For commander: collects `question=prompt`. */
function columnName(text: string, before: Readonly<Record<string, string>> = {}): Readonly<Record<string, string>> {
  const [, column, name] = /^([^=]+)=(.+)$/s.exec(text) ?? [];
  if (column === undefined || name === undefined) {
    throw new InvalidArgumentError("It should be COLUMN=NAME: the task's column and its name in the files.");
  }
  if (Object.hasOwn(before, column)) throw new InvalidArgumentError(`The column ${column} is given twice.`);
  return { ...before, [column]: name };
}

/** Most bad rows that are named one by one. */
const NAMED = 10;

/** Counts what is left out. */
export class SkippedRows {
  rows = 0;
  readonly reasons: BadRows[] = [];

  /** For `streamSamples`; undefined when bad rows are errors. */
  handler({ onBadRow }: Pick<ReadingFlags, 'onBadRow'>): ((bad: BadRows) => void) | undefined {
    if (onBadRow === 'error') return undefined;
    return (bad) => {
      this.rows += bad.rows;
      if (this.reasons.length < NAMED) this.reasons.push(bad);
    };
  }

  /** Says on stderr what was left out, if anything. */
  report(): void {
    if (this.rows === 0) return;
    for (const { message } of this.reasons) process.stderr.write(`skipped: ${printable(message)}\n`);
    process.stderr.write(`${this.rows} ${this.rows === 1 ? 'row was' : 'rows were'} skipped\n`);
  }
}
