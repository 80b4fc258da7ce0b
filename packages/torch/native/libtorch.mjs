// Where libtorch comes from: IVTLR_LIBTORCH (a folder with include/ and lib/), an importable Python torch, or the pinned wheel, fetched into
// the cache: its CUDA build where there is an NVIDIA driver, its CPU build otherwise.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fetchWheels, planWheels, totalBytes, unpackWheels, WheelError } from './wheels.mjs';

export const PINNED_VERSION = '2.13.0';
const SUPPORTED = ['2.11', '2.12', '2.13', '2.14'];

/** The set-up cannot succeed; the message says why in a sentence for the user. */
export class SetupError extends Error {
  name = 'SetupError';
}
/** This one libtorch cannot be used; another may. */
export class UnusableError extends SetupError {}

export function cacheFolder() {
  return process.env.IVTLR_CACHE ?? path.join(process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), '.cache'), 'ivtlr');
}

/** Runs a program to its end; `signal` says what killed it, if anything did. */
export function capture(command, args, environment = {}) {
  const { status, signal, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
    maxBuffer: 1 << 28,
  });
  return { ok: status === 0, signal, out: stdout ?? '', err: stderr || String(error ?? '') };
}

export function lastLine(text) {
  return text.trim().split('\n').pop();
}

/** The version in a libtorch folder's own header, e.g. "2.13.0"; null when the folder is no libtorch. */
export function libtorchVersion(folder) {
  const include = path.join(folder, 'include', 'torch');
  const header = ['headeronly/version.h', 'csrc/api/include/torch/version.h']
    .map((name) => path.join(include, name))
    .find(fs.existsSync);
  if (!header || !fs.existsSync(path.join(folder, 'lib', 'libtorch_cpu.so'))) return null;
  const text = fs.readFileSync(header, 'utf8');
  const part = (name) => text.match(new RegExp(`TORCH_VERSION_${name} (\\d+)`))?.[1];
  return `${part('MAJOR')}.${part('MINOR')}.${part('PATCH')}`;
}

function checkVersion(version, from) {
  if (!SUPPORTED.some((prefix) => version.startsWith(`${prefix}.`)))
    throw new UnusableError(`libtorch ${version} (${from}) is not supported: use one of ${SUPPORTED.join(', ')}`);
}

export function fromEnvironment() {
  const folder = process.env.IVTLR_LIBTORCH;
  if (!folder) return null;
  const version = libtorchVersion(folder);
  if (!version)
    throw new SetupError(`IVTLR_LIBTORCH=${folder} is no libtorch folder: it needs include/ and lib/libtorch_cpu.so`);
  checkVersion(version, 'IVTLR_LIBTORCH');
  return { folder: path.resolve(folder), version, source: 'IVTLR_LIBTORCH' };
}

/** @param accepts whether its folder will do */
export function fromPython(accepts = () => true) {
  const found = capture('python3', [
    '-c',
    'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")',
  ]);
  const folder = found.ok ? found.out.trim() : '';
  const version = folder ? libtorchVersion(folder) : null;
  if (!version || !accepts(folder)) return null;
  checkVersion(version, 'Python torch');
  return { folder, version, source: 'Python torch' };
}

export function hasNvidia() {
  return fs.existsSync('/proc/driver/nvidia/version') || capture('nvidia-smi', ['-L']).ok;
}

const pinnedFolder = (build) => path.join(cacheFolder(), 'libtorch', `${PINNED_VERSION}-${build}`);
// Beside a build that was fetched but could not be used: why. Fetching gigabytes again would end the same way.
const refusedFile = (build) => `${pinnedFolder(build)}.refused`;

/** The fetched wheel; `build` is cpu or cuda. */
export function fromCache(build) {
  const folder = path.join(pinnedFolder(build), 'torch');
  const version = libtorchVersion(folder);
  const source = `wheel torch==${PINNED_VERSION}${build === 'cuda' ? ' with CUDA' : ''}`;
  return version ? { folder, version, source } : null;
}

/** Removes a fetched build that cannot be used and remembers the reason. */
export function refuse(build, reason) {
  fs.rmSync(pinnedFolder(build), { recursive: true, force: true });
  fs.writeFileSync(refusedFile(build), `${reason}\n`);
}

export const usesCuda = (folder) => fs.existsSync(path.join(folder, 'lib', 'libtorch_cuda.so'));

/** Ways to the wheel in their order: a name for the log, pip's arguments, and whether all it needs to be loaded comes with it. */
const ATTEMPTS = {
  cpu: [
    ['a local wheel', ['--no-deps', '--no-index', `torch==${PINNED_VERSION}`], false],
    ['the CPU wheel', ['--no-deps', `torch==${PINNED_VERSION}+cpu`], false],
    // On the common index the wheel is the CUDA build, whose CPU library cannot be loaded without CUDA's.
    ['the package index, with all that its wheel needs', [`torch==${PINNED_VERSION}`], true],
  ],
  cuda: [
    ['local wheels, with the CUDA libraries', ['--no-index', `torch==${PINNED_VERSION}`], true],
    // With === no wheel that is marked as another build, such as +cpu.
    ['the package index, with the CUDA libraries', [`torch===${PINNED_VERSION}`], true],
  ],
};

/** Unpacked libraries take about twice the room of their wheels, and both are on the disk for a while. */
const ROOM = 3;

/**
 * Fetches the pinned wheel with pip into the cache. What was fetched before it was broken off is used the next time.
 * @throws UnusableError with pip's last word, or why an earlier one was refused
 */
export function fetchLibtorch(build, log) {
  if (fs.existsSync(refusedFile(build))) {
    const reason = fs.readFileSync(refusedFile(build), 'utf8').trim();
    throw new UnusableError(`it did not work before (${reason}); remove ${refusedFile(build)} to try again`);
  }
  if (!capture('python3', ['-m', 'pip', '--version']).ok)
    throw new UnusableError(
      'python3 with pip is needed once to fetch libtorch: install python3-pip, or set IVTLR_LIBTORCH to a libtorch folder',
    );
  const target = pinnedFolder(build);
  const wheelFolder = `${target}.wheels`;
  fs.mkdirSync(path.dirname(target), { recursive: true });
  let last = '';
  for (const [name, wanted, complete] of ATTEMPTS[build]) {
    const work = fs.mkdtempSync(`${target}.part-`);
    try {
      log(`fetching libtorch ${PINNED_VERSION}: trying ${name}`);
      const wheels = planWheels(wanted);
      if (build === 'cuda' && wheels.some(({ name, version }) => name === 'torch' && version.endsWith('+cpu')))
        throw new WheelError('the wheel is a build without CUDA');
      announce(wheels, log);
      fetchWheels(wheels, wheelFolder, log);
      log('unpacking');
      unpackWheels(wheels, wheelFolder, work);
      const folder = path.join(work, 'torch');
      if (!libtorchVersion(folder))
        last = 'the wheel holds no libtorch for this platform; Linux on x86-64 and arm64 is supported';
      else if (build === 'cuda' && !usesCuda(folder)) last = 'the wheel is a build without CUDA';
      else if (!complete && usesCuda(folder)) last = 'the wheel is a CUDA build without its libraries';
      else {
        fs.rmSync(target, { recursive: true, force: true });
        fs.renameSync(work, target);
        fs.rmSync(wheelFolder, { recursive: true, force: true });
        return fromCache(build);
      }
      fs.rmSync(wheelFolder, { recursive: true, force: true });
    } catch (error) {
      if (!(error instanceof WheelError)) throw error;
      last = error.message;
    } finally {
      fs.rmSync(work, { recursive: true, force: true });
    }
  }
  throw new UnusableError(
    `libtorch ${PINNED_VERSION} could not be fetched (${last}): set IVTLR_LIBTORCH to a libtorch folder or install torch in Python`,
  );
}

/** Says how much will come. @throws UnusableError where the disk has no room for it */
function announce(wheels, log) {
  const bytes = totalBytes(wheels);
  const gigabytes = (count) => `${(count / 1e9).toFixed(1)} GB`;
  const { bavail, bsize } = fs.statfsSync(cacheFolder());
  if (bavail * bsize < ROOM * bytes)
    throw new UnusableError(
      `it needs ${gigabytes(ROOM * bytes)} while it is unpacked, and ${cacheFolder()} has ${gigabytes(bavail * bsize)}: make room, or set IVTLR_CACHE to a folder on a larger disk`,
    );
  log(`${wheels.length === 1 ? 'one file' : `${wheels.length} files`}${bytes > 0 ? `, ${gigabytes(bytes)}` : ''}`);
}
