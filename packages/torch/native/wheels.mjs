// Fetches a wheel and all that it needs with pip, one file after the other: the size is said before, each file is told as it comes, and what has come
// stays in a folder, so that a fetch that was broken off goes on where it stopped.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const PIP = ['-m', 'pip'];
const QUIET = ['-q', '--disable-pip-version-check', '--only-binary', ':all:'];

/** The sizes of the files behind addresses, where their hosts tell them; -1 where not. */
const SIZES = `
import os, sys, urllib.request as request
for url in sys.argv[1:]:
    try:
        if url.startswith("file:"):
            print(os.path.getsize(request.url2pathname(url[len("file://"):])))
        else:
            head = request.Request(url.split("#")[0], method="HEAD")
            print(request.urlopen(head, timeout=10).headers["Content-Length"] or -1)
    except Exception:
        print(-1)
`;

function python(args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync('python3', args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 1 << 28,
    ...options,
  });
  if (status === 0) return stdout ?? '';
  throw new WheelError((stderr || String(error ?? '')).trim().split('\n').pop());
}

/** pip's last word about what it could not do. */
export class WheelError extends Error {}

/**
 * What would be fetched.
 * @param wanted pip's arguments: requirements, and options such as --no-deps
 * @returns name, version, address and size (-1 where it is not told) of each file
 * @throws WheelError when pip finds no such wheels
 */
export function planWheels(wanted) {
  const report = python([...PIP, 'install', ...QUIET, '--dry-run', '--ignore-installed', '--report', '-', ...wanted]);
  const wheels = JSON.parse(report).install.map(({ metadata, download_info }) => ({
    name: metadata.name,
    version: metadata.version,
    url: download_info.url,
  }));
  const sizes = python(['-c', SIZES, ...wheels.map(({ url }) => url)])
    .trim()
    .split('\n');
  return wheels.map((wheel, i) => ({ ...wheel, bytes: Number(sizes[i] ?? -1) }));
}

/** Bytes of all that are known. */
export function totalBytes(wheels) {
  return wheels.reduce((sum, { bytes }) => sum + Math.max(0, bytes), 0);
}

const size = (bytes) =>
  bytes < 0 ? '' : bytes < 1e9 ? `, ${Math.ceil(bytes / 1e6)} MB` : `, ${(bytes / 1e9).toFixed(1)} GB`;

/**
 * Brings the files that are not yet in the folder.
 * @throws WheelError for the first that cannot be fetched
 */
export function fetchWheels(wheels, folder, log) {
  fs.mkdirSync(folder, { recursive: true });
  for (const [i, { name, version, url, bytes }] of wheels.entries()) {
    const place = path.join(folder, `${name}-${version}`);
    if (fs.existsSync(place)) continue;
    log(`${i + 1} of ${wheels.length}: ${name} ${version}${size(bytes)}`);
    const work = fs.mkdtempSync(path.join(folder, '.part-'));
    try {
      // On a terminal pip shows how far it is.
      const bar = process.stderr.isTTY && bytes > 2e7;
      const quiet = bar ? QUIET.slice(1) : QUIET;
      python([...PIP, 'download', ...quiet, '--no-deps', '-d', work, url], {
        stdio: ['ignore', bar ? 2 : 'pipe', 'pipe'],
        env: { ...process.env, TMPDIR: work },
      });
      if (!fs.existsSync(place)) fs.renameSync(work, place); // another set-up may have been faster
    } finally {
      fs.rmSync(work, { recursive: true, force: true });
    }
  }
}

/** Unpacks what `fetchWheels` brought. @throws WheelError */
export function unpackWheels(wheels, folder, target) {
  const files = wheels.flatMap(({ name, version }) => {
    const place = path.join(folder, `${name}-${version}`);
    return fs.readdirSync(place).map((file) => path.join(place, file));
  });
  // pip unpacks into TMPDIR first: on the same disk the rest is a rename.
  python([...PIP, 'install', ...QUIET, '--no-compile', '--no-index', '--no-deps', '--target', target, ...files], {
    env: { ...process.env, TMPDIR: target },
  });
}
