/** Which device a model runs on: the one that was named, or for `auto` a GPU if there is one that works, else the CPU. */
import { UserError } from '../errors.ts';

/** What recipes and flags may name. */
export const DEVICE_NAME = /^(auto|cpu|cuda(:\d+)?)$/;

/**
 * Tries the device before anything is loaded onto it.
 * @param name `auto`, `cpu`, `cuda` or `cuda:N`
 * @param setting what the user calls the setting, for messages: `--device` or `device`
 * @param note told in one line what `auto` has become
 * @returns `cpu`, `cuda` or `cuda:N`
 * @throws UserError for a GPU that is not there or does not work
 */
export async function resolveDevice(
  name: string,
  setting: string,
  note: (line: string) => void,
  tryDevice: (device: string) => Promise<string | null> = whyUnusable,
): Promise<string> {
  if (!DEVICE_NAME.test(name)) throw new UserError(`${setting} ${name}: known are auto, cpu, cuda and cuda:N`);
  if (name === 'cpu') return name;
  const reason = await tryDevice(name === 'auto' ? 'cuda' : name);
  if (name === 'auto') {
    note(reason === null ? 'device: cuda' : `device: cpu (${reason})`);
    return reason === null ? 'cuda' : 'cpu';
  }
  if (reason === null) return name;
  throw new UserError(`${setting} ${name}: ${reason} (\`ivtlr doctor\` says more); use ${setting} auto or cpu`);
}

/**
 * As `resolveDevice`, for one of several processes of this machine that do not need each other: `auto` and `cuda` stand for the GPU of the
 * process's place, counted round where there are fewer GPUs than processes.
 * @param place from 0
 */
export async function deviceOfWorker(
  name: string,
  setting: string,
  place: number,
  note: (line: string) => void,
  countGpus: () => Promise<number> = gpuCount,
  tryDevice: (device: string) => Promise<string | null> = whyUnusable,
): Promise<string> {
  const gpus = name === 'auto' || name === 'cuda' ? await countGpus() : 0;
  if (gpus === 0) return resolveDevice(name, setting, note, tryDevice);
  return resolveGpu(name, `cuda:${place % gpus}`, setting, note, tryDevice);
}

/**
 * As `resolveDevice`, for a process that trains together with others: each needs a GPU of its own.
 * @throws UserError also when the machine has fewer GPUs than processes, or all were given the same one
 */
export async function deviceOfRank(
  name: string,
  setting: string,
  { localRank, localWorldSize }: { localRank: number; localWorldSize: number },
  note: (line: string) => void,
  countGpus: () => Promise<number> = gpuCount,
  tryDevice: (device: string) => Promise<string | null> = whyUnusable,
): Promise<string> {
  const gpus = name === 'cpu' ? 0 : await countGpus();
  if (gpus === 0) return resolveDevice(name, setting, note, tryDevice);
  if (name !== 'auto' && name !== 'cuda') {
    if (localWorldSize === 1) return resolveDevice(name, setting, note, tryDevice);
    throw new UserError(
      `${setting} ${name} would put all ${localWorldSize} processes on one GPU; use ${setting} cuda, which gives each its own`,
    );
  }
  // Schedulers may show each process its own GPU alone, which then is number 0.
  if (gpus === 1) return resolveGpu(name, 'cuda:0', setting, note, tryDevice);
  if (gpus < localWorldSize) {
    throw new UserError(
      `${setting} ${name}: the ${localWorldSize} processes of this machine need a GPU each, but it has ${gpus}; start fewer, or use ${setting} cpu`,
    );
  }
  return resolveGpu(name, `cuda:${localRank}`, setting, note, tryDevice);
}

/** Tries a GPU only in the process that it belongs to: trying takes some of its memory. */
async function resolveGpu(
  name: string,
  gpu: string,
  setting: string,
  note: (line: string) => void,
  tryDevice: (device: string) => Promise<string | null>,
): Promise<string> {
  if (name === 'cuda') return resolveDevice(gpu, setting, note, tryDevice);
  const found = await resolveDevice(name, setting, note, () => tryDevice(gpu));
  return found === 'cpu' ? found : gpu;
}

async function gpuCount(): Promise<number> {
  const { cudaDeviceCount } = await import('@ivtlr/torch');
  return cudaDeviceCount();
}

/** Null for a device that computes, else why not. */
async function whyUnusable(device: string): Promise<string | null> {
  const { cudaAvailable, full, scope } = await import('@ivtlr/torch');
  if (!cudaAvailable()) return 'this libtorch sees no CUDA GPU';
  try {
    // A driver too old or a GPU too new for this libtorch shows only when a kernel runs.
    scope(() => full([2], 1, { device }).sum().item());
    return null;
  } catch (error) {
    return `the GPU does not work: ${(error as Error).message.split('\n')[0]}`;
  }
}
