/** Which libtorch the set-up settles on. The programs it asks are stand-ins on PATH, so nothing is fetched and nothing is compiled. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { explainLoading, findAddon, type Libtorch, SetupError, setup } from '../../native/setup.mjs';

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
  // The package index has the CUDA build with one library beside it, and the CPU build as +cpu.
  program(
    'python3',
    `case "$1 $2 $3" in
  "-c"*Content-Length*) shift 2; for url in "$@"; do case "$url" in *cublas*) echo 2000000 ;; *) echo \${TORCH_BYTES:-1000000} ;; esac; done ;;
  "-c"*) cat "${root}/python-torch" 2>/dev/null ;;
  "-m pip --version") ;;
  "-m pip install")
    case "$*" in
      *--report*)
        echo "$*" >> "${root}/calls"
        case "$*" in *--no-index*) echo "ERROR: No matching distribution found" >&2; exit 1 ;; esac
        case "$*" in *+cpu) wheel=cpu ;; *) wheel=cuda ;; esac
        torch='{"metadata": {"name": "torch", "version": "2.13.0"}, "download_info": {"url": "https://index/torch-'$wheel'"}}'
        cublas='{"metadata": {"name": "nvidia-cublas", "version": "13.1"}, "download_info": {"url": "https://index/cublas"}}'
        if [ $wheel = cuda ]; then torch="$torch, $cublas"; fi
        echo "{\\"install\\": [$torch]}" ;;
      *)
        for last in "$@"; do case "$last" in *torch-cpu) wheel=cpu ;; *torch-cuda) wheel=cuda ;; esac; done
        while [ "$1" != --target ]; do shift; done
        cp -r "${root}/wheel-$wheel/torch" "$2/torch" ;;
    esac ;;
  "-m pip download")
    while [ "$1" != -d ]; do shift; done
    echo "download $3" >> "${root}/calls"
    if [ -e "${root}/disk-full-$(basename "$3")" ]; then echo "ERROR: [Errno 28] No space left on device" >&2; exit 1; fi
    echo wheel > "$2/$(basename "$3")" ;;
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
  expect(chosen()).toEqual({ ...libtorch, cpu: false });
  expect(fs.existsSync(file)).toBe(true);
  expect(calls().every((call) => !call.includes('--no-deps'))).toBe(true);
  expect(lines).toContain('2 files, 0.0 GB');
  expect(lines).toContain('2 of 2: nvidia-cublas 13.1, 2 MB');
  expect(fs.readdirSync(at('cache/libtorch'))).toEqual(['2.13.0-cuda']);
  const before = calls();
  expect(before.slice(2)).toEqual(['download https://index/torch-cuda', 'download https://index/cublas']);
  run();
  expect(calls()).toEqual(before);
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
  fs.writeFileSync(at('disk-full-cublas'), '');
  expect(run().libtorch.folder).toContain('2.13.0-cpu');
  expect(lines.join('\n')).toContain('could not be fetched (ERROR: [Errno 28] No space left on device)');
  expect(fs.readdirSync(at('cache/libtorch'))).toEqual(['2.13.0-cpu', '2.13.0-cuda.wheels']);
});

test('a fetch that broke off goes on where it stopped', () => {
  withNvidia();
  fs.writeFileSync(at('disk-full-cublas'), '');
  run();
  fs.rmSync(at('disk-full-cublas'));
  fs.rmSync(at('calls'));
  expect(run().libtorch.folder).toContain('2.13.0-cuda');
  expect(calls().filter((call) => call.startsWith('download'))).toEqual(['download https://index/cublas']);
  expect(fs.readdirSync(at('cache/libtorch')).sort()).toEqual(['2.13.0-cpu', '2.13.0-cuda']);
});

test('nothing is fetched that the disk has no room for', () => {
  withNvidia();
  vi.stubEnv('TORCH_BYTES', '900000000000000');
  expect(run).toThrow(/it needs 2700000\.0 GB while it is unpacked, and .* has .* GB: make room, or set IVTLR_CACHE/);
  expect(calls().filter((call) => call.startsWith('download'))).toEqual([]);
});

test('--cpu takes the CPU build beside a GPU, and is remembered until it is taken back', () => {
  withNvidia();
  fs.writeFileSync(at('python-torch'), libtorch(at('site-packages/torch'), true));
  expect(setup((line) => lines.push(line), { cpu: true }).libtorch.folder).toContain('2.13.0-cpu');
  expect(run().libtorch.folder).toContain('2.13.0-cpu');
  expect(setup((line) => lines.push(line), { cpu: false }).libtorch.source).toBe('Python torch');
  expect(run().libtorch.source).toBe('Python torch');
});

test('beside a GPU a Python torch without CUDA is the last but one choice', () => {
  withNvidia();
  fs.writeFileSync(at('python-torch'), libtorch(at('site-packages/torch'), false));
  expect(run().libtorch.source).toBe('wheel torch==2.13.0 with CUDA');
  fs.rmSync(at('cache'), { recursive: true });
  broken('2.13.0-cuda');
  expect(run().libtorch.source).toBe('Python torch');
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
  fs.writeFileSync(at('python-torch'), libtorch(at('site-packages/torch'), true));
  withNvidia();
  expect(run().libtorch.source).toBe('Python torch');
  broken('site-packages');
  fs.rmSync(at('cache'), { recursive: true });
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

test.each([
  ['13.0', 'libcusparse.so.12', 'nvidia-cusparse'],
  ['13.0', 'libcusparseLt.so.0', 'nvidia-cusparselt-cu13'],
  ['12.8', 'libcudnn.so.9', 'nvidia-cudnn-cu12'],
  ['12.8', 'libcublasLt.so.12', 'nvidia-cublas-cu12'],
  ['12.8', 'libcudnn_graph.so.9', 'nvidia-cudnn-cu12'],
])('CUDA %s: the package that brings %s is named', (cuda, library, name) => {
  const folder = libtorch(at('mine'), true);
  fs.writeFileSync(path.join(folder, 'version.py'), `__version__ = '2.13.0'\ncuda: Optional[str] = '${cuda}'\n`);
  expect(explainLoading(`${library}: cannot open shared object file: No such file or directory`, folder)).toBe(
    `the library ${library}, which libtorch in ${folder} needs, is not found: it comes with \`pip install ${name}\`, beside the torch package`,
  );
});

test('what else keeps a library from being loaded is left as the system says it', () => {
  expect(explainLoading('file too short', at('mine'))).toBe('file too short');
  expect(explainLoading('libcuda.so.1: cannot open shared object file: x', at('mine'))).toContain("NVIDIA's driver");
  expect(explainLoading('libfoo.so.1: cannot open shared object file: x', at('mine'))).toMatch(
    /libfoo.so.1, which .* is not found$/,
  );
});
