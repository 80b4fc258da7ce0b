/** `ivtlr setup`: finds or fetches libtorch and builds the addon, where the packages are installed as in a checkout. */
import { setup } from '@ivtlr/torch/setup';
import type { Command } from 'commander';

export function registerSetup(program: Command): void {
  program
    .command('setup')
    .description('find or fetch libtorch and build the addon against it (once; a few minutes)')
    .option('--cpu', 'take a libtorch without CUDA, whatever the machine has; remembered until --no-cpu')
    .option('--no-cpu', 'take what fits the machine')
    .action(({ cpu }: { cpu?: boolean }) => {
      const { libtorch } = setup((line) => process.stderr.write(`${line}\n`), cpu === undefined ? {} : { cpu });
      process.stdout.write(`ready: libtorch ${libtorch.version} from ${libtorch.source} (${libtorch.folder})\n`);
    });
}
