/** `ivtlr merge`: a trained adapter made a plain model folder. */
import { type Command, Option } from 'commander';

interface MergeFlags {
  dtype?: 'float32' | 'bfloat16' | 'float16';
  json?: boolean;
}

export function registerMerge(program: Command): void {
  program
    .command('merge')
    .description('add a trained adapter to its base model; the folder opens here and in transformers')
    .argument('<adapter>', 'adapter folder, or owner/name on the hub')
    .argument('<out>', 'folder to make')
    .addOption(
      new Option('--dtype <name>', "of the weights (default: the base's)").choices(['float32', 'bfloat16', 'float16']),
    )
    .option('--json', 'print one JSON object')
    .action(merge);
}

async function merge(adapter: string, out: string, { dtype, json }: MergeFlags): Promise<void> {
  const { modelFolder } = await import('./hub-folders.ts');
  const { mergeAdapter } = await import('../convert/merge-adapter.ts');
  const result = mergeAdapter(await modelFolder(adapter), out, dtype);
  const { rank, base } = result;
  process.stdout.write(
    json
      ? `${JSON.stringify({ out, adapter, ...result })}\n`
      : `${out}: ${base} with the adapter of rank ${rank} merged, ${result.dtype}\n`,
  );
}
