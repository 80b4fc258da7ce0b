/** `ivtlr serve`: a model behind OpenAI's chat API, with the browser app. */
import { existsSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { UserError } from '../errors.ts';
import { type AskingFlags, addAskingFlags, openingFromFlags } from './asking-flags.ts';
import { MAX, wholeNumberWithin } from './number-flags.ts';
import { version } from './version.ts';

interface ServeFlags extends AskingFlags {
  model: string[];
  name: string[];
  host: string;
  port: number;
  apiKeyFile?: string;
  rate?: number;
  concurrent?: number;
  batch: number;
  maxQueue: number;
  piece: number;
  cacheMb?: number;
  maxBodyMb: number;
  maxPixels: number;
  allowImageHosts: string[];
  timeout: number;
  engineTimeout: number;
  drain: number;
  runs?: string;
  logLevel: string;
}

const LONGEST = 86_400;
/** Models that come with the package; without `--model` the first is served. */
const BUNDLED = ['dominoes', 'dominoes-cot'];

export function registerServe(program: Command): void {
  const command = program
    .command('serve')
    .description("serve a model over HTTP: OpenAI's chat API, and a page to ask it and watch it reason")
    .addOption(
      new Option(
        '--model <folder>',
        'model folder (Hugging Face layout), or owner/name on the hub; several times for several models',
      )
        .default([], BUNDLED[0])
        .argParser(oneMore),
    )
    .addOption(
      new Option('--name <name>', 'what clients call the model; of several, in their order')
        .default([], 'the name of its folder')
        .argParser(oneMore),
    )
    .option('--host <address>', 'address to listen on; 0.0.0.0 for all', '127.0.0.1')
    .option('--port <n>', 'port to listen on; 0 for any that is free', wholeNumberWithin(0, 65_535), 8000)
    .option('--api-key-file <file>', 'keys that may ask, one a line (default: everybody may)')
    .option('--rate <n>', 'requests a minute of each key (default: no limit)', wholeNumberWithin(1, 1e6))
    .option('--concurrent <n>', 'requests of each key at a time (default: no limit)', wholeNumberWithin(1, 1e6))
    .option('--batch <n>', 'questions answered together', wholeNumberWithin(1, MAX.batch), 16)
    .option('--max-queue <n>', 'questions that may wait; more are refused with 429', wholeNumberWithin(0, 1e6), 256)
    .option(
      '--piece <tokens>',
      'prompt tokens, or as much work on a picture, that run between two steps of the others',
      wholeNumberWithin(1, 1e6),
      512,
    )
    .option('--cache-mb <n>', 'MiB for keys and values (default: half of what is free)', wholeNumberWithin(1, 1e9))
    .option('--max-body-mb <n>', 'largest request, MiB', wholeNumberWithin(1, 1024), 32)
    .option('--max-pixels <n>', 'largest picture', wholeNumberWithin(1, 1e9), 40_000_000)
    .addOption(
      new Option(
        '--allow-image-hosts <host...>',
        'hosts that pictures are fetched from: example.org, *.example.org or *',
      )
        .default([], 'none')
        .argParser((host: string, before: string[]) => [...before, checkedHost(host)]),
    )
    .option('--timeout <seconds>', 'longest wait for an answer', wholeNumberWithin(1, LONGEST), 600)
    .option(
      '--engine-timeout <seconds>',
      'an engine silent for so long is started again',
      wholeNumberWithin(1, LONGEST),
      60,
    )
    .option('--drain <seconds>', 'time for what is under way when told to stop', wholeNumberWithin(0, LONGEST), 30)
    .option('--runs <folder>', 'training runs to show')
    .addOption(
      new Option('--log-level <level>', 'JSON lines on stderr')
        .choices(['silent', 'error', 'warn', 'info'])
        .default('info'),
    );
  addAskingFlags(command).action(serveModel);
}

function oneMore(value: string, before: string[]): string[] {
  return [...before, value];
}

function checkedHost(host: string): string {
  if (!/^(\*|(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?)$/i.test(host))
    throw new InvalidArgumentError('It should be a host such as example.org, *.example.org, or * for all.');
  return host;
}

async function serveModel(flags: ServeFlags): Promise<void> {
  const { runs, apiKeyFile, host } = flags;
  if (runs !== undefined && !statSync(runs, { throwIfNoEntry: false })?.isDirectory())
    throw new UserError(`--runs ${runs}: there is no such folder`);
  const { readKeys } = await import('../server/keys.ts');
  const keys = apiKeyFile === undefined ? null : readKeys(apiKeyFile);
  const models = await namedModels(flags);
  const { serve } = await import('../server/serve.ts');
  const { exitCodeOf, StopSignals } = await import('../runs/stop-signals.ts');
  let stopping: (signal: NodeJS.Signals) => void = (signal) => process.exit(exitCodeOf(signal));
  const signals = new StopSignals((signal) => stopping(signal));
  const serving = await serve({
    version: version(),
    models: models.map(({ id, folder }) => ({
      id,
      model: {
        ...{ folder, device: flags.device, deviceSetting: '--device', dtype: flags.dtype },
        ...openingFromFlags(flags),
      },
    })),
    engine: {
      threads: flags.threads ?? availableParallelism(),
      limits: {
        ...{ rows: flags.batch, pieceTokens: flags.piece, maxPixels: flags.maxPixels },
        cacheBytes: flags.cacheMb === undefined ? null : flags.cacheMb * 2 ** 20,
      },
      ...{ maxQueue: flags.maxQueue, maxQueueBytes: 16 * flags.maxBodyMb * 2 ** 20 },
      ...{ hangMs: flags.engineTimeout * 1000, openMs: 1_800_000 },
    },
    ...{ keys, keyLimits: { ratePerMinute: flags.rate ?? null, concurrent: flags.concurrent ?? null } },
    ...{ host, port: flags.port, runs: runs ?? null, maxNewTokens: flags.maxNewTokens, logLevel: flags.logLevel },
    ...{ maxBody: flags.maxBodyMb * 2 ** 20, receiveTimeoutMs: 60_000, requestTimeoutMs: flags.timeout * 1000 },
    pictures: { maxBytes: flags.maxBodyMb * 2 ** 20, allowHosts: flags.allowImageHosts, timeoutMs: 15_000 },
    app: fileURLToPath(new URL('../../app', import.meta.url)),
  });
  process.stdout.write(`${serving.url}\n`);
  if (keys === null && !/^(127\.|::1$|localhost$)/.test(host))
    process.stderr.write(`note: everybody who reaches ${host} may ask; --api-key-file says who may\n`);
  const signal = await new Promise<NodeJS.Signals>((resolve) => {
    stopping = resolve;
    if (signals.received) resolve(signals.received);
  });
  process.stderr.write(`${signal}: letting ${serving.server.active} requests end (again to stop at once)\n`);
  await serving.stop(flags.drain * 1000);
}

/** The folders of the models, downloaded where they are on the hub, and what clients call them. @throws UserError */
async function namedModels({ model, name }: ServeFlags): Promise<{ id: string; folder: string }[]> {
  const { modelFolder } = await import('./hub-folders.ts');
  const { bundledModel } = await import('../engine/bundled-model.ts');
  const wanted = model.length > 0 ? model : [BUNDLED[0]!];
  if (name.length > wanted.length)
    throw new UserError(
      `--name is given ${name.length} times, but --model ${wanted.length === 1 ? 'once' : `${wanted.length} times`}`,
    );
  const ids = wanted.map((each, i) => name[i] ?? nameOf(each));
  const twice = ids.find((id, i) => ids.indexOf(id) < i);
  if (twice !== undefined)
    throw new UserError(`two models would be called ${twice}; give each another --name, in the order of the models`);
  const found: { id: string; folder: string }[] = [];
  for (const [i, each] of wanted.entries()) {
    // A folder of that name here is meant before the bundled model is.
    const bundled = BUNDLED.includes(each) && !existsSync(each);
    found.push({ id: ids[i]!, folder: bundled ? bundledModel(each) : await modelFolder(each) });
  }
  return found;
}

/** The last part of a path or of a hub's name. */
function nameOf(model: string): string {
  return model.replace(/\/+$/, '').split('/').at(-1)!;
}
