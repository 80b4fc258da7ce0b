/** `ivtlr data`: gets, makes and shows data. */
import { type Command, Option } from 'commander';
import { RULES, type Rule } from '../tasks/relay/generator.ts';
import { SPLITS, type Split } from '../tasks/task.ts';
import { registerDataGet } from './data-get.ts';
import { registerDataInspect } from './data-inspect.ts';
import { registerDataStats } from './data-stats.ts';
import { numberWithin, seedNumber, wholeNumberWithin } from './number-flags.ts';

interface MakeFlags {
  rows: number;
  out: string;
  seed: number;
  split: Split;
  overwrite?: boolean;
  json?: boolean;
}

interface DominoesFlags extends MakeFlags {
  hops: number;
  dominoes: number;
}

interface RelayFlags extends MakeFlags {
  hops: number;
  dominoes?: number;
  share: number;
  digits: number;
  rule: Rule;
}

export function registerData(program: Command): void {
  const data = program.command('data').description('get, make and look at data');
  registerDataGet(data);
  const make = data.command('make').description('draw a data set');
  addMakeFlags(
    make
      .command('dominoes')
      .description("follow a chain of coloured dominoes; Parquet in M3CoT's schema, images as PNG"),
  )
    .option('--hops <n>', 'dominoes to follow', wholeNumberWithin(1, 7), 3)
    .option('--dominoes <n>', 'dominoes in the image', wholeNumberWithin(2, 8), 7)
    .action(async (flags: DominoesFlags) => {
      // Loaded here, so that --help stays quick.
      const { makeDominoes } = await import('../tasks/dominoes/make.ts');
      const { hops, dominoes } = flags;
      await write('dominoes', flags, { hops, dominoes }, makeDominoes);
    });
  addMakeFlags(
    make
      .command('relay')
      .description("carry a digit along a chain of dominoes; Parquet in M3CoT's schema, images as PNG"),
  )
    .option('--hops <n>', 'dominoes to follow', wholeNumberWithin(2, 8), 3)
    .option('--dominoes <n>', 'dominoes in the image (default: 7, or as many as hops)', wholeNumberWithin(2, 8))
    .option('--share <p>', 'how likely a domino has dots', numberWithin(0, 1), 0.5)
    .option('--digits <n>', 'the digits are 1 to this', wholeNumberWithin(2, 4), 4)
    .addOption(new Option('--rule <name>', 'what dots do to the digit').choices(RULES).default('replace'))
    .action(async (flags: RelayFlags) => {
      const { makeRelay } = await import('../tasks/relay/make.ts');
      const { hops, dominoes = Math.max(7, hops), share, digits, rule } = flags;
      await write('relay', flags, { hops, dominoes, share, digits, rule }, makeRelay);
    });
  registerDataInspect(data);
  registerDataStats(data);
}

function addMakeFlags(command: Command): Command {
  return command
    .requiredOption('--rows <n>', 'number of samples', wholeNumberWithin(1, 10_000_000))
    .requiredOption('--out <folder>', 'where the file goes; made when missing')
    .option('--seed <n>', 'another seed draws other samples', seedNumber, 0)
    .addOption(new Option('--split <name>', 'splits never share samples').choices(SPLITS).default('train'))
    .option('--overwrite', 'replace a file that is there already')
    .option('--json', 'print one JSON object');
}

/** Writes the file and says so. */
async function write<Dials extends object>(
  task: string,
  flags: MakeFlags,
  dials: Dials,
  make: (options: MakeFlags & Dials & { onProgress: ((rows: number) => void) | undefined }) => Promise<string>,
): Promise<void> {
  const { rows, split, seed, json } = flags;
  const onProgress = process.stderr.isTTY
    ? (done: number) => process.stderr.write(`\r${done} of ${rows} rows`)
    : undefined;
  const path = await make({ ...flags, ...dials, onProgress });
  if (onProgress) process.stderr.write('\r\x1b[K');
  const made = { task, path, rows, split, seed, ...dials };
  process.stdout.write(json ? `${JSON.stringify(made)}\n` : `${path}: ${rows} rows\n`);
}
