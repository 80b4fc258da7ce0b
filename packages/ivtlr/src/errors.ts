import type { z } from 'zod';
import { printable } from './printable.ts';

/** Longer messages quote data that nobody reads to its end. */
const MAX_CHARACTERS = 2000;

/**
 * An error the user can act on: one sentence saying what was wrong, where, and what would be right. The CLI prints it and exits with code 2.
 * What the sentence quotes from files is made printable, without blank lines and short here, once for all.
 */
export class UserError extends Error {
  override name = 'UserError';

  constructor(message: string, options?: ErrorOptions) {
    const shown = printable(message.slice(0, 4 * MAX_CHARACTERS).replace(/\n\s*\n/g, '\n'));
    const fits = message.length <= 4 * MAX_CHARACTERS && shown.length <= MAX_CHARACTERS;
    super(fits ? shown : `${shown.slice(0, MAX_CHARACTERS)} [..]`, options);
  }
}

/** A schema's message; of a key that is not there it says so. */
export function schemaMessage(message: string): string {
  return message.replace(/^Invalid input: expected (.*), received undefined$/, 'missing; expected $1');
}

/** What a schema finds wrong, each mistake with its place below it. The first five tell enough. */
export function schemaMistakes({ issues }: z.core.$ZodError): string {
  const lines = issues.slice(0, 5).flatMap(({ path, message }) => {
    return [`✖ ${schemaMessage(message)}`, ...(path.length > 0 ? [`  → at ${path.map(String).join('.')}`] : [])];
  });
  return [...lines, ...(issues.length > 5 ? [`and ${issues.length - 5} more`] : [])].join('\n');
}
