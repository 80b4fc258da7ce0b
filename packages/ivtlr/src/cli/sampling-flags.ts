/** Flags of how an answer's tokens are chosen and where it ends. Loads nothing native. */
import { type Command, InvalidArgumentError } from 'commander';
import { UserError } from '../errors.ts';
import { isGreedy, SAMPLING_LIMITS, type Sampling } from '../latent/sampling.ts';
import { numberWithin, wholeNumberWithin } from './number-flags.ts';

export interface SamplingFlags extends Partial<Sampling> {
  stop?: string[];
}

export function addSamplingFlags(command: Command): Command {
  const within = (name: keyof Sampling) => {
    const { least, most, whole } = SAMPLING_LIMITS[name];
    return (whole ? wholeNumberWithin : numberWithin)(least, most);
  };
  return command
    .option(
      '--temperature <x>',
      'draw each token, evenly at high temperatures, close to the likeliest at low ones (default: 0, always the likeliest)',
      within('temperature'),
    )
    .option('--top-k <n>', 'draw among the n likeliest tokens only', within('topK'))
    .option('--top-p <x>', 'draw among the likeliest tokens that together have this probability', within('topP'))
    .option(
      '--min-p <x>',
      'draw among tokens that are at least this many times as likely as the likeliest',
      within('minP'),
    )
    .option(
      '--repetition-penalty <x>',
      'above 1: tokens that the prompt or the answer has already become less likely',
      within('repetitionPenalty'),
    )
    .option('--stop <text>', 'end the answer before this text (may be given several times)', oneMore);
}

/** @throws UserError for flags that would change nothing */
export function samplingOfFlags(flags: SamplingFlags): {
  sampling: Partial<Sampling> | undefined;
  stop: string[] | undefined;
} {
  const { temperature, topK, topP, minP, repetitionPenalty, stop } = flags;
  const given = Object.entries({ repetitionPenalty, temperature, topK, topP, minP }).filter(
    ([, value]) => value !== undefined,
  );
  const drawing = topK !== undefined || topP !== undefined || minP !== undefined;
  if (drawing && isGreedy({ temperature: temperature ?? 0 }))
    throw new UserError(
      '--top-k, --top-p and --min-p say among which tokens is drawn; give a --temperature above 0 with them, such as 1',
    );
  return { sampling: given.length > 0 ? Object.fromEntries(given) : undefined, stop };
}

function oneMore(text: string, before: readonly string[] = []): string[] {
  if (text === '') throw new InvalidArgumentError('It should have at least one character.');
  return [...before, text];
}
