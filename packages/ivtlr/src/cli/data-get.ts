/** `ivtlr data get`: the data sets of the paper from the hub, into the cache that Python's programs use too. */
import { Argument, type Command } from 'commander';
import { Progress } from './progress.ts';

/** Hub names of the tasks' data. */
const SOURCES = {
  m3cot: { repo: 'LightChen2333/M3CoT', licence: 'CC BY-SA 4.0' },
  scienceqa: { repo: 'derek-thomas/ScienceQA', licence: 'CC BY-NC-SA 4.0' },
} as const;

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
    .addArgument(new Argument('<task>', 'whose data').choices(Object.keys(SOURCES)))
    .option('--dir <folder>', "cache folder (default: the hub cache of Python's huggingface_hub)")
    .option('--revision <name>', 'branch, tag or commit', 'main')
    .option('--json', 'print one JSON object')
    .action((task: keyof typeof SOURCES, flags: GetFlags) => get(task, flags));
}

async function get(task: keyof typeof SOURCES, { dir, revision, json }: GetFlags): Promise<void> {
  const { download } = await import('../hub/download.ts');
  const { hubSettings } = await import('../hub/settings.ts');
  const { repo, licence } = SOURCES[task];
  const settings = hubSettings();
  let progress: Progress | undefined;
  const megabytes = (bytes: number) => Math.round(bytes / 1e6);
  const result = await download({
    kind: 'datasets',
    repo,
    revision,
    settings: dir === undefined ? settings : { ...settings, cache: dir },
    wanted: (path) => path.endsWith('.parquet') || path === 'README.md',
    onProgress: (done, total) => {
      const [initial, all] = [megabytes(done), megabytes(total)];
      progress ??= new Progress({ label: repo, unit: 'MB', total: all, initial });
      progress.update(megabytes(done));
    },
    onRetry: (message, seconds) => {
      const line = `${message}; again in ${seconds.toFixed(0)} s`;
      if (progress) progress.log(line);
      else process.stderr.write(`${line}\n`);
    },
  });
  const { folder, files, bytes, fetched } = result;
  progress?.finish(
    `${repo} (${licence}): ${files} files, ${megabytes(bytes)} MB, ${megabytes(fetched)} MB of them new`,
  );
  process.stdout.write(json ? `${JSON.stringify({ task, repo, revision, licence, ...result })}\n` : `${folder}\n`);
}
