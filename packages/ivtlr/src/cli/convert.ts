/** `ivtlr convert`: an official IVT-LR checkpoint made a model folder. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { Progress } from './progress.ts';

interface ConvertFlags {
  base: string;
  merge?: boolean;
  alpha: number;
  dtype?: 'float32' | 'bfloat16' | 'float16';
  task?: string;
  json?: boolean;
}

export function registerConvert(program: Command): void {
  program
    .command('convert')
    .description('turn a published IVT-LR checkpoint (model.pth) into a model folder; nothing in the file is run')
    .argument('<checkpoint>', 'the .pth file of the official code, or owner/name on the hub')
    .argument('<out>', 'folder to make')
    .requiredOption(
      '--base <folder>',
      'the Hugging Face model it was trained from (folder or hub name): config, tokenizer, chat template',
    )
    .option('--merge', 'add the LoRA adapters to the weights (default: write them as a PEFT folder, <out>/adapter)')
    .option('--alpha <n>', "LoRA's alpha, which the file does not tell", positive, 16)
    .addOption(
      new Option('--dtype <name>', 'of the weights (default: as stored)').choices(['float32', 'bfloat16', 'float16']),
    )
    .option('--task <name>', 'task it was trained on, to be remembered with the model')
    .option('--json', 'print one JSON object')
    .action(convert);
}

async function convert(checkpoint: string, out: string, flags: ConvertFlags): Promise<void> {
  if (flags.task !== undefined) (await import('../tasks/registry.ts')).findTask(flags.task);
  const { checkpointFile, modelFolder } = await import('./hub-folders.ts');
  const { convertOfficial } = await import('../convert/convert-official.ts');
  const stop = new AbortController();
  const interrupt = () => stop.abort();
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  let progress: Progress | null = null;
  const mebibytes = (bytes: number) => Math.round(bytes / 2 ** 20);
  try {
    const { base, merge, alpha, dtype, task } = flags;
    const result = await convertOfficial({
      checkpoint: await checkpointFile(checkpoint),
      base: await modelFolder(base),
      out,
      alpha,
      merge: merge ?? false,
      ...(dtype && { dtype }),
      ...(task !== undefined && { task }),
      signal: stop.signal,
      onProgress({ done, total, name }) {
        progress ??= new Progress({ label: 'converting', total: mebibytes(total), unit: 'MiB' });
        progress.update(mebibytes(done), name);
      },
    });
    (progress as Progress | null)?.finish();
    const { weights, adapters, rank, vocabulary, files, adapterFolder, skipped } = result;
    if (skipped.length > 0) process.stderr.write(`not tensors, left out: ${skipped.slice(0, 10).join(', ')}\n`);
    if (flags.json) {
      const made = { out, weights, adapters, rank, vocabulary, files, merged: merge ?? false, adapterFolder, skipped };
      process.stdout.write(`${JSON.stringify(made)}\n`);
      return;
    }
    const lora = adapters > 0 ? `${adapters} adapters of rank ${rank}${merge ? ' merged' : ''}` : 'no adapters';
    process.stdout.write(
      `${out}: ${weights} weights in ${files} file${files > 1 ? 's' : ''}, vocabulary ${vocabulary}, ${lora}\n`,
    );
    if (adapterFolder)
      process.stdout.write(
        `adapter: ${adapterFolder}\nthe weights alone are the base model; open the adapter folder, or convert with --merge\n`,
      );
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    process.stderr.write('\nstopped; nothing was written\n');
    process.exitCode = 130;
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  }
}

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0 && Number.isFinite(value))) throw new InvalidArgumentError('It should be a number above 0.');
  return value;
}
