/** `ivtlr data`: gets, makes and shows data. */
import { type Command, Option } from 'commander';
import { SPLITS, type Split } from '../tasks/task.ts';
import { registerDataGet } from './data-get.ts';
import { registerDataInspect } from './data-inspect.ts';
import { registerDataStats } from './data-stats.ts';
import { seedNumber, wholeNumberWithin } from './number-flags.ts';

interface MakeFlags {
  rows: number;
  out: string;
  seed: number;
  split: Split;
  hops: number;
  dominoes: number;
  overwrite?: boolean;
  json?: boolean;
}

export function registerData(program: Command): void {
  const data = program.command('data').description('get, make and look at data');
  registerDataGet(data);
  const make = data.command('make').description('draw a data set');
  make
    .command('dominoes')
    .description("follow a chain of coloured dominoes; Parquet in M3CoT's schema, images as PNG")
    .requiredOption('--rows <n>', 'number of samples', wholeNumberWithin(1, 10_000_000))
    .requiredOption('--out <folder>', 'where the file goes; made when missing')
    .option('--seed <n>', 'another seed draws other samples', seedNumber, 0)
    .addOption(new Option('--split <name>', 'splits never share samples').choices(SPLITS).default('train'))
    .option('--hops <n>', 'dominoes to follow', wholeNumberWithin(1, 7), 3)
    .option('--dominoes <n>', 'dominoes in the image', wholeNumberWithin(2, 8), 7)
    .option('--overwrite', 'replace a file that is there already')
    .option('--json', 'print one JSON object')
    .action(async (flags: MakeFlags) => {
      // Loaded here, so that --help stays quick.
      const { makeDominoes } = await import('../tasks/dominoes/make.ts');
      const onProgress = process.stderr.isTTY
        ? (rows: number) => process.stderr.write(`\r${rows} of ${flags.rows} rows`)
        : undefined;
      const path = await makeDominoes({ ...flags, onProgress });
      if (onProgress) process.stderr.write('\r\x1b[K');
      const { rows, split, seed, hops, dominoes, json } = flags;
      const made = { task: 'dominoes', path, rows, split, seed, hops, dominoes };
      process.stdout.write(json ? `${JSON.stringify(made)}\n` : `${path}: ${rows} rows\n`);
    });
  registerDataInspect(data);
  registerDataStats(data);
}
