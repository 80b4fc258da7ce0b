/** What this machine offers, and whether the numerics work: the checks behind `ivtlr doctor`. */
import os from 'node:os';
import { hasNvidia, SetupError, setupCommand } from '@ivtlr/torch/setup';

type Torch = typeof import('@ivtlr/torch');

/** One line of the report. `warn` works but slower than it could; `fail` means ivtlr cannot work. */
export interface Check {
  name: string;
  status: 'ok' | 'warn' | 'fail';
  value: string;
  /** What to do about it. */
  remedy?: string;
}

const MIN_NODE: readonly [number, number] = [20, 20];

/** All checks, in the order they are shown. Never throws: what breaks becomes a `fail`. */
export async function diagnose(): Promise<Check[]> {
  const checks = [checkNode(process.versions.node), checkMachine()];
  try {
    const torch = await import('@ivtlr/torch');
    checks.push(...checkTorch(torch), ...selfTest(torch));
  } catch (error) {
    // Such an error says itself what to do.
    const remedy = error instanceof SetupError ? {} : { remedy: `run \`${setupCommand()}\`` };
    checks.push({ name: 'libtorch', status: 'fail', value: firstLine(error), ...remedy });
  }
  checks.push(await checkImages());
  return checks;
}

function checkNode(version: string): Check {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const recent = major > MIN_NODE[0] || (major === MIN_NODE[0] && minor >= MIN_NODE[1]);
  return {
    name: 'Node',
    status: recent ? 'ok' : 'fail',
    value: version,
    ...(recent ? {} : { remedy: `install Node ${MIN_NODE.join('.')} or newer` }),
  };
}

function checkMachine(): Check {
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
  const cpu = os.cpus()[0]?.model.trim() ?? 'unknown CPU';
  const memory = `${gib(os.freemem())} of ${gib(os.totalmem())} GiB memory free`;
  return { name: 'machine', status: 'ok', value: `${os.platform()} ${os.arch()}, ${cpu}, ${memory}` };
}

function checkTorch(torch: Torch): Check[] {
  const { folder, source } = torch.libtorchSource();
  const cores = os.availableParallelism();
  const threads = torch.getNumThreads();
  const capability = torch.cpuCapability();
  return [
    { name: 'libtorch', status: 'ok', value: `${torch.torchVersion()} from ${source} (${folder})` },
    {
      name: 'CPU kernels',
      status: /AVX|SVE|NEON|ZVECTOR|VSX/i.test(capability) || os.arch() === 'arm64' ? 'ok' : 'warn',
      value: capability,
    },
    {
      name: 'threads',
      status: 'ok',
      value: `${threads} for ${cores} ${cores === 1 ? 'core' : 'cores'}`,
      ...(threads > cores ? { status: 'warn', remedy: `set OMP_NUM_THREADS=${cores}` } : {}),
    },
    checkGpu(torch),
  ];
}

function checkGpu(torch: Torch): Check {
  if (torch.cudaAvailable()) return { name: 'GPU', status: 'ok', value: describeGpus(torch) };
  if (!hasNvidia()) return { name: 'GPU', status: 'ok', value: 'no NVIDIA driver; everything runs on the CPU' };
  return {
    name: 'GPU',
    status: 'warn',
    value: `there is an NVIDIA driver, but no GPU can be used: ${whyNoGpu(torch)}`,
    remedy: `make \`nvidia-smi\` list a GPU, then run \`${setupCommand()}\`; for the CPU alone, \`${setupCommand('--cpu')}\``,
  };
}

/** e.g. `NVIDIA L4 (capability 8.9, 22.1 of 22.5 GiB free)`; several are separated by commas. */
function describeGpus(torch: Torch): string {
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
  const describe = (index: number) => {
    try {
      const { name, capability } = torch.cudaDevice(index);
      const { free, total } = torch.cudaMemory(index);
      return `${name} (capability ${capability.join('.')}, ${gib(free)} of ${gib(total)} GiB free)`;
    } catch (error) {
      return `cuda:${index} (${firstLine(error)})`;
    }
  };
  return Array.from({ length: torch.cudaDeviceCount() }, (_, index) => describe(index)).join(', ');
}

/** libtorch's own first sentence about it. */
function whyNoGpu(torch: Torch): string {
  try {
    torch.scope(() => torch.full([1], 1, { device: 'cuda' }).item());
    return 'it is not counted among the devices';
  } catch (error) {
    return firstLine(error);
  }
}

function selfTest(torch: Torch): Check[] {
  const devices = torch.cudaAvailable() ? ['cpu', 'cuda'] : ['cpu'];
  return devices.map((device) => {
    const name = `self-test ${device}`;
    const before = torch.liveTensorCount();
    try {
      torch.scope(() => {
        expectNumbers('matmul', matmul(torch, device), [19, 22, 43, 50]);
        expectNumbers('gradient of x^3', gradient(torch, device), [3, 12, 27]);
      });
      const rate = matmulRate(torch, device);
      const leaked = torch.liveTensorCount() - before;
      if (leaked !== 0) throw new Error(`${leaked} tensors were not freed`);
      return { name, status: 'ok', value: `matmul and gradient are right; ${rate.toFixed(0)} GFLOP/s in float32` };
    } catch (error) {
      return {
        name,
        status: 'fail',
        value: firstLine(error),
        remedy: `run \`${setupCommand()}\` again with another libtorch`,
      };
    }
  });
}

function matmul(torch: Torch, device: string): number[] {
  const left = torch.tensor([[1, 2], [3, 4]], { device }); // biome-ignore format: a matrix reads as rows
  const right = torch.tensor([[5, 6], [7, 8]], { device }); // biome-ignore format: a matrix reads as rows
  return left.matmul(right).toNumbers();
}

function gradient(torch: Torch, device: string): number[] {
  const x = torch.tensor([1, 2, 3], { device, requiresGrad: true });
  x.pow(3).sum().backward();
  const { grad } = x;
  if (!grad) throw new Error('backward left no gradient');
  return grad.toNumbers();
}

/** Billions of float operations a second of a 1024^3 product, best of three. */
function matmulRate(torch: Torch, device: string): number {
  const size = 1024;
  return torch.scope(() => {
    const square = torch.ones([size, size], { device });
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < 3; round++) {
      const start = performance.now();
      square.matmul(square).select(0, 0).select(0, 0).item(); // item() waits for the GPU
      best = Math.min(best, performance.now() - start);
    }
    return (2 * size ** 3) / (best * 1e6);
  });
}

function expectNumbers(what: string, got: readonly number[], wanted: readonly number[]): void {
  if (got.length !== wanted.length || got.some((value, index) => Math.abs(value - wanted[index]!) > 1e-4)) {
    throw new Error(`${what} gave ${got.join(' ')} instead of ${wanted.join(' ')}`);
  }
}

async function checkImages(): Promise<Check> {
  const name = 'images';
  try {
    const { default: sharp } = await import('sharp');
    const { createCanvas } = await import('@napi-rs/canvas');
    const png = createCanvas(2, 2).toBuffer('image/png');
    await sharp(png).raw().toBuffer();
    return { name, status: 'ok', value: `sharp ${sharp.versions.sharp} decodes what the canvas draws` };
  } catch (error) {
    return { name, status: 'fail', value: firstLine(error), remedy: 'install the packages again, on this machine' };
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}
