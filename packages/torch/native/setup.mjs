// Builds the addon against libtorch. Run by `npm run setup` and `ivtlr setup`; returns soon when nothing has changed. What it chooses has been loaded once in a
// process of its own, so that a libtorch that lacks a library or dies on this CPU is never left in place.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import {
  cacheFolder,
  capture,
  fetchLibtorch,
  fromCache,
  fromEnvironment,
  fromPython,
  hasNvidia,
  lastLine,
  libtorchVersion,
  refuse,
  SetupError,
  UnusableError,
  usesCuda,
} from './libtorch.mjs';
import { explainLoading } from './missing-library.mjs';

export { explainLoading, hasNvidia, SetupError };

const native = path.dirname(fileURLToPath(import.meta.url));
const require = createRequire(import.meta.url);

// What setup chose last, so that starting a program asks neither Python nor the driver.
const chosenFile = () => path.join(cacheFolder(), 'libtorch.json');

function lastChoice() {
  return fs.existsSync(chosenFile()) ? JSON.parse(fs.readFileSync(chosenFile(), 'utf8')) : null;
}

function chosen() {
  const last = lastChoice();
  if (!last || libtorchVersion(last.folder) !== last.version) return null;
  const { folder, version, source } = last;
  return { folder, version, source };
}

/** The libtorch this program would use, without looking around: { folder, version, source } or null. */
export function findLibtorch() {
  return fromEnvironment() ?? chosen();
}

function addonPath(libtorch) {
  const hash = createHash('sha256');
  for (const file of fs
    .readdirSync(native, { recursive: true })
    .filter((name) => /\.(cpp|h|txt)$/.test(name))
    .sort())
    hash.update(file).update(fs.readFileSync(path.join(native, file)));
  hash.update(libtorch.folder);
  const key = `${libtorch.version}-${hash.digest('hex').slice(0, 16)}-napi${process.versions.napi}-${process.arch}`;
  return path.join(cacheFolder(), 'addon', key, 'ivtlr_torch.node');
}

/** The command for a user to set up with: npm's script in a checkout, the program where the packages are installed. @param flag `--cpu`, or none */
export function setupCommand(flag = '') {
  const end = flag && ` ${flag}`;
  if (!native.split(path.sep).includes('node_modules')) return `npm run setup${end && ` --${end}`}`;
  if (fs.existsSync(path.join(native, '../../../ivtlr/package.json'))) return `npx ivtlr setup${end}`;
  return `node ${path.relative('', path.join(native, 'setup.mjs'))}${end}`;
}

/** The built addon and the libtorch it links, or null when the set-up has not run for this state. */
export function findAddon() {
  const libtorch = findLibtorch();
  if (!libtorch) return null;
  const file = addonPath(libtorch);
  return fs.existsSync(file) ? { file, libtorch } : null;
}

/** May be the compiler's or the addon's fault as well, so what was fetched stays, and another run tries again. */
class NotCompiledError extends UnusableError {}

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
      throw new NotCompiledError(
        `the addon did not compile against libtorch ${libtorch.version}\n${made.out.slice(-4000)}${made.err.slice(-4000)}`,
      );
    const built = path.join(work, 'ivtlr_torch.node');
    const error = loadingError(built, libtorch);
    if (error) {
      // A function that is missing may be one that the addon itself should have: no reason to remove the libtorch.
      const Kind = /undefined symbol/.test(error) ? NotCompiledError : UnusableError;
      throw new Kind(`the addon built against it cannot be loaded: ${error}`);
    }
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.copyFileSync(built, `${file}.tmp`);
    fs.renameSync(`${file}.tmp`, file);
    log(`built ${file}`);
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
}

/** Why a process cannot load the addon; null when it can. */
function loadingError(file, { folder }) {
  const loaded = capture(process.execPath, ['-e', 'require(process.argv[1])', file]);
  if (loaded.ok) return null;
  if (loaded.signal) return `loading it ends with ${loaded.signal}`;
  return explainLoading(loaded.err.match(/^Error: (.*)$/m)?.[1] ?? lastLine(loaded.err), folder);
}

/** Where to look, in order, until one of them can be loaded. Where there is an NVIDIA driver, what can use it comes first, unless the CPU is asked for. */
function sources(cpu, log) {
  if (process.env.IVTLR_LIBTORCH) return [{ name: 'IVTLR_LIBTORCH', find: fromEnvironment }];
  const pinned = (build, name) => [
    { name: `${name} in the cache`, find: () => fromCache(build) },
    { name: `${name} fetched now`, find: () => fetchLibtorch(build, log), refuse: (reason) => refuse(build, reason) },
  ];
  const python = (accepts) => ({ name: 'Python torch', find: () => fromPython(accepts) });
  if (cpu) return [python((folder) => !usesCuda(folder)), ...pinned('cpu', 'the CPU build')];
  if (!hasNvidia()) return [python(), ...pinned('cpu', 'the CPU build')];
  return [python(usesCuda), ...pinned('cuda', 'the CUDA build'), python(), ...pinned('cpu', 'the CPU build')];
}

/**
 * @param options.cpu true for a libtorch without CUDA whatever the machine has, remembered by later set-ups until it is false
 * @throws SetupError when no libtorch can be used; why each before the last one could not is logged
 */
export function setup(log, { cpu = lastChoice()?.cpu ?? false } = {}) {
  let last;
  for (const { name, find, refuse } of sources(cpu, log)) {
    let libtorch = null;
    try {
      libtorch = find();
      if (!libtorch) continue;
      const file = addonPath(libtorch);
      if (!fs.existsSync(file) || loadingError(file, libtorch)) build(libtorch, file, log);
      fs.mkdirSync(cacheFolder(), { recursive: true });
      fs.writeFileSync(`${chosenFile()}.${process.pid}`, JSON.stringify({ ...libtorch, cpu }));
      fs.renameSync(`${chosenFile()}.${process.pid}`, chosenFile());
      return { file, libtorch };
    } catch (error) {
      if (!(error instanceof UnusableError)) throw error;
      if (libtorch && !(error instanceof NotCompiledError)) refuse?.(error.message);
      last = error;
      log(`${name} cannot be used: ${error.message}`);
    }
  }
  throw last;
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  try {
    const flags = process.argv.slice(2);
    const unknown = flags.find((flag) => flag !== '--cpu' && flag !== '--no-cpu');
    if (unknown)
      throw new SetupError(
        `${unknown} is not known: --cpu takes a libtorch without CUDA, --no-cpu whatever fits the machine`,
      );
    setup((line) => console.log(`setup: ${line}`), flags.length > 0 ? { cpu: flags.at(-1) === '--cpu' } : {});
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    console.error(`setup: ${error.message}`);
    process.exit(2);
  }
}
