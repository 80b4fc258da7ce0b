/** `ivtlr data get`: the data sets of the paper from the hub, into the cache that Python's programs use too. */
import { Argument, type Command } from 'commander';
import { DATASETS } from '../tasks/datasets.ts';
import { hubProgress } from './hub-progress.ts';

interface GetFlags {
  dir?: string;
  revision: string;
  json?: boolean;
}

export function registerDataGet(data: Command): void {
  data
    .command('get')
    .description(
      'download the data of a task from the Hugging Face hub (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE are honoured)',
    )
    .addArgument(new Argument('<task>', 'whose data').choices(Object.keys(DATASETS)))
    .option('--dir <folder>', "cache folder (default: the hub cache of Python's huggingface_hub)")
    .option('--revision <name>', 'branch, tag or commit', 'main')
    .option('--json', 'print one JSON object')
    .action((task: string, flags: GetFlags) => get(task, flags));
}

async function get(task: string, { dir, revision, json }: GetFlags): Promise<void> {
  const { dataFile, fetchFromHub } = await import('../hub/resolve.ts');
  const { hubSettings } = await import('../hub/settings.ts');
  const { repo, licence } = DATASETS[task]!;
  const own = dir === undefined ? {} : { settings: { ...hubSettings(), cache: dir } };
  const wanted = { kind: 'datasets', repo, revision, wanted: dataFile, ...own } as const;
  const result = await fetchFromHub(wanted, hubProgress(licence));
  process.stdout.write(
    json ? `${JSON.stringify({ task, repo, revision, licence, ...result })}\n` : `${result.folder}\n`,
  );
}
