/** Which libtorch the set-up settles on. The programs it asks are stand-ins on PATH, so nothing is fetched and nothing is compiled. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { findAddon, type Libtorch, SetupError, setup } from '../../native/setup.mjs';

const addon = findAddon()!.file; // one that loads
let root: string;
let lines: string[];

const at = (...names: string[]) => path.join(root, ...names);
const run = () => setup((line) => lines.push(line));
const calls = () => (fs.existsSync(at('calls')) ? fs.readFileSync(at('calls'), 'utf8').trim().split('\n') : []);

function program(name: string, script: string): void {
  fs.writeFileSync(at('bin', name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
}

function libtorch(folder: string, cuda: boolean): string {
  fs.mkdirSync(path.join(folder, 'include/torch/headeronly'), { recursive: true });
  fs.mkdirSync(path.join(folder, 'lib'));
  const version = '#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 13\n#define TORCH_VERSION_PATCH 0\n';
  fs.writeFileSync(path.join(folder, 'include/torch/headeronly/version.h'), version);
  fs.writeFileSync(path.join(folder, 'lib/libtorch_cpu.so'), '');
  if (cuda) fs.writeFileSync(path.join(folder, 'lib/libtorch_cuda.so'), '');
  return folder;
}

beforeEach(() => {
  root = fs.mkdtempSync(path.join(os.tmpdir(), 'setup-'));
  lines = [];
  fs.mkdirSync(at('bin'));
  libtorch(at('wheel-cpu/torch'), false);
  libtorch(at('wheel-cuda/torch'), true);
  // The package index has the CUDA build, and the CPU build as +cpu.
  program(
    'python3',
    `case "$1 $2 $3" in
  "-c"*) cat "${root}/python-torch" 2>/dev/null ;;
  "-m pip --version") ;;
  "-m pip install")
    echo "$*" >> "${root}/calls"
    case "$*" in *--no-index*) echo "ERROR: No matching distribution found" >&2; exit 1 ;; esac
    case "$*" in *+cpu) wheel=cpu ;; *) wheel=cuda ;; esac
    if [ -e "${root}/disk-full-$wheel" ]; then echo "ERROR: [Errno 28] No space left on device" >&2; exit 1; fi
    while [ "$1" != --target ]; do shift; done
    cp -r "${root}/wheel-$wheel/torch" "$2/torch" ;;
esac`,
  );
  // The addon can be loaded unless its libtorch is marked as broken.
  program(
    'cmake',
    `case "$1" in
  -S) for last in "$@"; do case "$last" in -DLIBTORCH=*) folder="\${last#-DLIBTORCH=}" ;; esac; done
    mkdir -p "$4"; echo "$folder" > "$4/libtorch" ;;
  --build) folder=$(cat "$2/libtorch")
    case "$(cat "${root}/broken" 2>/dev/null)" in
      "") cp "${addon}" "$2/ivtlr_torch.node" ;;
      *) if expr "$folder" : ".*$(cat "${root}/broken")" > /dev/null; then echo junk > "$2/ivtlr_torch.node"; else cp "${addon}" "$2/ivtlr_torch.node"; fi ;;
    esac ;;
esac`,
  );
  vi.stubEnv('PATH', `${at('bin')}:${process.env.PATH}`);
  vi.stubEnv('IVTLR_CACHE', at('cache'));
  vi.stubEnv('IVTLR_LIBTORCH', '');
});
afterEach(() => {
  vi.unstubAllEnvs();
  fs.rmSync(root, { recursive: true });
});

const withNvidia = () => program('nvidia-smi', 'echo "GPU 0: stand-in"');
const broken = (folder: string) => fs.writeFileSync(at('broken'), folder);
const chosen = (): Libtorch => JSON.parse(fs.readFileSync(at('cache/libtorch.json'), 'utf8'));

test('with an NVIDIA driver the CUDA build is fetched with all that it needs', () => {
  withNvidia();
  const { file, libtorch } = run();
  expect(libtorch).toEqual({
    folder: at('cache/libtorch/2.13.0-cuda/torch'),
    version: '2.13.0',
    source: 'wheel torch==2.13.0 with CUDA',
  });
  expect(chosen()).toEqual(libtorch);
  expect(fs.existsSync(file)).toBe(true);
  expect(calls().every((call) => !call.includes('--no-deps'))).toBe(true);
  run();
  expect(calls().length).toBe(2); // local wheels, then the index; nothing the second time
});

test('a CUDA build that cannot be loaded: the CPU build, the reason, and no second download', () => {
  withNvidia();
  broken('2.13.0-cuda');
  expect(run().libtorch.folder).toBe(at('cache/libtorch/2.13.0-cpu/torch'));
  expect(lines.join('\n')).toMatch(
    /the CUDA build fetched now cannot be used: the addon built against it cannot be loaded: .*ivtlr_torch.node: /,
  );
  expect(chosen().folder).toContain('2.13.0-cpu');
  const before = calls().length;
  lines = [];
  expect(run().libtorch.folder).toContain('2.13.0-cpu');
  expect(calls().length).toBe(before);
  expect(lines.join('\n')).toMatch(/it did not work before .*; remove .*2\.13\.0-cuda\.refused to try again/);
  expect(fs.readdirSync(at('cache/libtorch')).sort()).toEqual(['2.13.0-cpu', '2.13.0-cuda.refused']);
});

test('a CUDA build in the cache that lacks libraries is fetched anew', () => {
  withNvidia();
  const folder = libtorch(at('cache/libtorch/2.13.0-cuda/torch'), true);
  fs.writeFileSync(path.join(folder, 'incomplete'), '');
  program(
    'cmake',
    `case "$1" in -S) mkdir -p "$4" ;; --build)
    if [ -e "${folder}/incomplete" ]; then echo junk > "$2/ivtlr_torch.node"; else cp "${addon}" "$2/ivtlr_torch.node"; fi ;; esac`,
  );
  expect(run().libtorch.folder).toBe(folder);
  expect(fs.existsSync(path.join(folder, 'incomplete'))).toBe(false);
  expect(lines.join('\n')).toContain('the CUDA build in the cache cannot be used: ');
});

test('a CUDA build that cannot be fetched: the CPU build and the reason', () => {
  withNvidia();
  fs.writeFileSync(at('disk-full-cuda'), '');
  expect(run().libtorch.folder).toContain('2.13.0-cpu');
  expect(lines.join('\n')).toContain('could not be fetched (ERROR: [Errno 28] No space left on device)');
  expect(fs.readdirSync(at('cache/libtorch'))).toEqual(['2.13.0-cpu']);
});

test('without pip the CPU build in the cache will do', () => {
  withNvidia();
  program('python3', 'exit 1');
  libtorch(at('cache/libtorch/2.13.0-cpu/torch'), false);
  expect(run().libtorch.folder).toContain('2.13.0-cpu');
  expect(lines.join('\n')).toContain('the CUDA build fetched now cannot be used: python3 with pip is needed once');
  fs.rmSync(at('cache'), { recursive: true });
  expect(run).toThrow('python3 with pip is needed once');
});

test('a Python torch that cannot be loaded is passed over', () => {
  fs.writeFileSync(at('python-torch'), libtorch(at('site-packages/torch'), false));
  expect(run().libtorch.source).toBe('Python torch');
  broken('site-packages');
  fs.rmSync(at('cache'), { recursive: true });
  withNvidia();
  expect(run().libtorch.source).toBe('wheel torch==2.13.0 with CUDA');
  expect(lines.join('\n')).toContain('Python torch cannot be used: the addon built against it cannot be loaded');
});

test('an addon that no longer loads is built again', () => {
  vi.stubEnv('IVTLR_LIBTORCH', libtorch(at('mine'), false));
  const { file } = run();
  fs.writeFileSync(file, 'junk');
  expect(run().file).toBe(file);
  expect(fs.readFileSync(file).equals(fs.readFileSync(addon))).toBe(true);
});

test('a libtorch that the user names is used or refused, never replaced', () => {
  vi.stubEnv('IVTLR_LIBTORCH', libtorch(at('mine'), false));
  broken('mine');
  expect(run).toThrow(SetupError);
  expect(run).toThrow(/^the addon built against it cannot be loaded: .*ivtlr_torch.node: /);
  expect([calls(), fs.existsSync(at('cache/libtorch.json'))]).toEqual([[], false]);
});
