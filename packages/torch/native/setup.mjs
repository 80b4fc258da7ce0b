// Finds or fetches libtorch and builds the addon against it. Run by `npm run setup`; returns at once when nothing has changed.
// Order: IVTLR_LIBTORCH (a folder with include/ and lib/), an importable Python torch, a pinned wheel unpacked into the cache.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const PINNED_VERSION = '2.13.0';
const SUPPORTED = ['2.11', '2.12', '2.13', '2.14'];
const native = path.dirname(fileURLToPath(import.meta.url));
const require = createRequire(import.meta.url);

export class SetupError extends Error {}

export function cacheFolder() {
  return process.env.IVTLR_CACHE ?? path.join(process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), '.cache'), 'ivtlr');
}

function capture(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  return { ok: result.status === 0, out: result.stdout ?? '', err: result.stderr ?? String(result.error ?? '') };
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
    throw new SetupError(`libtorch ${version} (${from}) is not supported: use one of ${SUPPORTED.join(', ')}`);
}

function fromEnvironment() {
  const folder = process.env.IVTLR_LIBTORCH;
  if (!folder) return null;
  const version = libtorchVersion(folder);
  if (!version)
    throw new SetupError(`IVTLR_LIBTORCH=${folder} is no libtorch folder: it needs include/ and lib/libtorch_cpu.so`);
  checkVersion(version, 'IVTLR_LIBTORCH');
  return { folder: path.resolve(folder), version, source: 'IVTLR_LIBTORCH' };
}

function fromPython(log) {
  const found = capture('python3', [
    '-c',
    'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")',
  ]);
  const folder = found.ok ? found.out.trim() : '';
  const version = folder ? libtorchVersion(folder) : null;
  if (!version) return null;
  try {
    checkVersion(version, 'Python torch');
  } catch (error) {
    log(`${error.message}; falling back to the pinned ${PINNED_VERSION}`);
    return null;
  }
  return { folder, version, source: 'Python torch' };
}

function hasNvidia() {
  return fs.existsSync('/proc/driver/nvidia/version') || capture('nvidia-smi', ['-L']).ok;
}

function pinnedFolder() {
  return path.join(cacheFolder(), 'libtorch', `${PINNED_VERSION}-${hasNvidia() ? 'cuda' : 'cpu'}`);
}

function fromCache() {
  const folder = path.join(pinnedFolder(), 'torch');
  const version = libtorchVersion(folder);
  return version ? { folder, version, source: `wheel torch==${PINNED_VERSION}` } : null;
}

function download(log) {
  const target = pinnedFolder();
  fs.mkdirSync(path.dirname(target), { recursive: true });
  const work = fs.mkdtempSync(`${target}.part-`);
  try {
    if (!capture('python3', ['-m', 'pip', '--version']).ok)
      throw new SetupError(
        'python3 with pip is needed once to fetch libtorch: install python3-pip, or set IVTLR_LIBTORCH to a libtorch folder',
      );
    const base = ['-m', 'pip', 'download', '--no-deps', '--disable-pip-version-check', '-q', '-d', work];
    const attempts = [
      ['a local wheel', [...base, '--no-index', `torch==${PINNED_VERSION}`]],
      ...(hasNvidia() ? [] : [['the CPU wheel', [...base, `torch==${PINNED_VERSION}+cpu`]]]),
      ['the package index', [...base, `torch==${PINNED_VERSION}`]],
    ];
    let wheel;
    let last = '';
    for (const [name, args] of attempts) {
      log(`fetching libtorch ${PINNED_VERSION}: trying ${name}`);
      const result = capture('python3', args);
      last = result.err.trim().split('\n').pop() ?? '';
      wheel = fs.readdirSync(work).find((file) => file.endsWith('.whl'));
      if (result.ok && wheel) break;
      wheel = undefined;
    }
    if (!wheel)
      throw new SetupError(
        `libtorch ${PINNED_VERSION} could not be fetched (${last}): set IVTLR_LIBTORCH to a libtorch folder or install torch in Python`,
      );
    log(`unpacking ${wheel}`);
    const unpacked = capture('python3', ['-m', 'zipfile', '-e', path.join(work, wheel), work]);
    if (!unpacked.ok) throw new SetupError(`${wheel} could not be unpacked: ${unpacked.err.trim().split('\n').pop()}`);
    fs.rmSync(path.join(work, wheel));
    fs.rmSync(target, { recursive: true, force: true });
    fs.renameSync(work, target);
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
  const found = fromCache();
  if (!found)
    throw new SetupError(
      `the wheel torch==${PINNED_VERSION} holds no libtorch for this platform (Linux x86-64 and arm64 are supported)`,
    );
  return found;
}

// What setup chose last, so that starting a program asks neither Python nor the driver.
const chosenFile = () => path.join(cacheFolder(), 'libtorch.json');

function chosen() {
  if (!fs.existsSync(chosenFile())) return null;
  const saved = JSON.parse(fs.readFileSync(chosenFile(), 'utf8'));
  return libtorchVersion(saved.folder) === saved.version ? saved : null;
}

/** The libtorch this program would use, without looking around: { folder, version, source } or null. */
export function findLibtorch() {
  return fromEnvironment() ?? chosen();
}

function addonPath(libtorch) {
  const hash = createHash('sha256');
  for (const file of fs
    .readdirSync(native)
    .filter((name) => /\.(cpp|h|txt)$/.test(name))
    .sort())
    hash.update(file).update(fs.readFileSync(path.join(native, file)));
  hash.update(libtorch.folder);
  const key = `${libtorch.version}-${hash.digest('hex').slice(0, 16)}-napi${process.versions.napi}-${process.arch}`;
  return path.join(cacheFolder(), 'addon', key, 'ivtlr_torch.node');
}

/** The built addon and the libtorch it links, or null when `npm run setup` has not run for this state. */
export function findAddon() {
  const libtorch = findLibtorch();
  if (!libtorch) return null;
  const file = addonPath(libtorch);
  return fs.existsSync(file) ? { file, libtorch } : null;
}

function build(libtorch, file, log) {
  if (!capture('cmake', ['--version']).ok)
    throw new SetupError('CMake is needed to build the addon: install cmake and a C++20 compiler (gcc 12 or newer)');
  const headers = path.join(path.dirname(require.resolve('node-api-headers/package.json')), 'include');
  fs.mkdirSync(path.dirname(path.dirname(file)), { recursive: true });
  const work = fs.mkdtempSync(`${path.dirname(file)}.part-`);
  try {
    log(`building the addon against libtorch ${libtorch.version} (about a minute, once)`);
    const configure = capture('cmake', [
      '-S',
      native,
      '-B',
      work,
      `-DLIBTORCH=${libtorch.folder}`,
      `-DNODE_API_INCLUDE=${headers}`,
    ]);
    if (!configure.ok)
      throw new SetupError(`CMake could not configure the addon: a C++20 compiler is needed\n${configure.err}`);
    const made = capture('cmake', ['--build', work, '--parallel', String(Math.max(1, os.availableParallelism()))]);
    if (!made.ok)
      throw new SetupError(
        `the addon did not compile against libtorch ${libtorch.version}\n${made.out.slice(-4000)}${made.err.slice(-4000)}`,
      );
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.copyFileSync(path.join(work, 'ivtlr_torch.node'), `${file}.tmp`);
    fs.renameSync(`${file}.tmp`, file);
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
}

export function setup(log) {
  const libtorch = fromEnvironment() ?? fromPython(log) ?? fromCache() ?? download(log);
  fs.mkdirSync(cacheFolder(), { recursive: true });
  fs.writeFileSync(`${chosenFile()}.${process.pid}`, JSON.stringify(libtorch));
  fs.renameSync(`${chosenFile()}.${process.pid}`, chosenFile());
  const file = addonPath(libtorch);
  if (!fs.existsSync(file)) {
    build(libtorch, file, log);
    log(`built ${file}`);
  }
  return { file, libtorch };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  try {
    setup((line) => console.log(`setup: ${line}`));
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    console.error(`setup: ${error.message}`);
    process.exit(2);
  }
}
