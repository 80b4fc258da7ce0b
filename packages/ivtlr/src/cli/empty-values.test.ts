import { Command } from 'commander';
import { expect, it } from 'vitest';
import { refuseEmptyValues } from './empty-values.ts';
import { buildProgram } from './main.ts';

/** Parses a command line of the program, checks its values, and runs no command. */
async function check(...args: string[]): Promise<void> {
  const program = buildProgram();
  const quiet = (command: Command) => {
    command.action(() => {}).configureOutput({ writeErr() {} });
    command.commands.forEach(quiet);
  };
  program.commands.forEach(quiet);
  await program.parseAsync(args, { from: 'user' });
}

/** Every command of the program that does something, with the words that call it. */
function commands(of: Command = buildProgram(), words: string[] = []): [string[], Command][] {
  if (of.commands.length === 0) return [[words, of]];
  return of.commands.flatMap((command) => commands(command, [...words, command.name()]));
}

it.each(commands().map(([words, command]) => [words.join(' '), words, command] as const))(
  'refuses empty values of every flag of %s',
  async (_, words, command) => {
    const needed = command.options.filter((option) => option.mandatory);
    const argumentOf = (name: string | undefined) =>
      needed.filter((option) => option.long !== name).flatMap((option) => [option.long!, '1']);
    const positions = command.registeredArguments.map(({ argChoices }) => argChoices?.[0] ?? 'x');
    for (const { long, required, optional, argChoices, parseArg } of command.options) {
      if (!required && !optional) continue;
      for (const empty of ['', ' ']) {
        const call = check(...words, ...positions, ...argumentOf(long), long!, empty);
        const own = argChoices !== undefined || parseArg !== undefined;
        await expect(call, `${words.join(' ')} ${long}`).rejects.toThrow(own ? /invalid|is empty/ : `${long} is empty`);
      }
    }
    for (const [at, argument] of command.registeredArguments.entries()) {
      await expect(check(...words, ...positions.with(at, ''), ...argumentOf(undefined))).rejects.toThrow(
        argument.argChoices ? 'invalid' : `<${argument.name()}> is empty`,
      );
    }
  },
);

it('looks into lists and leaves defaults alone', () => {
  const command = new Command().argument('[folder]').option('--choices <texts...>').option('--out <folder>');
  command.action(() => {}).parse([], { from: 'user' });
  refuseEmptyValues(command);
  command.parse(['--choices', 'a', ''], { from: 'user' });
  expect(() => refuseEmptyValues(command)).toThrow('--choices is empty');
});
