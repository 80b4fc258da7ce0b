/** Values that are empty, as `--data "$UNSET"` gives them, must not count as left out: one check for all commands. */
import type { Command } from 'commander';
import { UserError } from '../errors.ts';

/** @throws UserError naming the first argument or flag of the command whose value is empty or white space */
export function refuseEmptyValues(command: Command): void {
  command.registeredArguments.forEach((argument, index) => {
    if (isEmpty(command.processedArgs[index])) throw new UserError(`the argument <${argument.name()}> is empty`);
  });
  for (const option of command.options) {
    if (isEmpty(command.getOptionValue(option.attributeName()))) {
      throw new UserError(`${option.long ?? option.short} is empty; give it a value or leave it out`);
    }
  }
}

function isEmpty(value: unknown): boolean {
  return Array.isArray(value) ? value.some(isEmpty) : typeof value === 'string' && value.trim() === '';
}
