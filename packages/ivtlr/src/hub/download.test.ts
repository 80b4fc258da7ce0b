import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { COMMIT, gitHash, type Hub, startHub } from '../../../../test/hub-server.ts';
import { UserError } from '../errors.ts';
import { type Downloaded, type DownloadOptions, download } from './download.ts';

const big = randomBytes(300_000);
const other = randomBytes(50_000);
const readme = Buffer.from('# Data\n');
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const first = 'data/train-00000-of-00001.parquet';

let hub: Hub;
let cache = '';
beforeEach(async () => {
  hub = await startHub({ [first]: big, 'data/test ü.parquet': other, 'README.md': readme });
  cache = mkdtempSync(join(tmpdir(), 'ivtlr-hub-'));
});
afterEach(async () => {
  await hub.close();
  rmSync(cache, { recursive: true, force: true });
});

function get(more: Partial<DownloadOptions> & { token?: string; offline?: boolean } = {}): Promise<Downloaded> {
  const { token, offline = false, ...rest } = more;
  const settings = { endpoint: hub.url, cache, token, offline };
  return download({ kind: 'datasets', repo: 'some/data', settings, firstWait: 0.001, ...rest });
}
const root = () => join(cache, 'datasets--some--data');
const blobs = () => readdirSync(join(root(), 'blobs')).sort();

describe('the cache', () => {
  test("has Python's layout: blobs by hash, relative links, the branch names the commit", async () => {
    const { folder, ...counts } = await get();
    expect(folder).toBe(join(root(), 'snapshots', COMMIT));
    expect(counts).toEqual({ commit: COMMIT, files: 3, bytes: 350_007, fetched: 350_007 });
    expect(readFileSync(join(folder, first)).equals(big)).toBe(true);
    expect(readFileSync(join(folder, 'data/test ü.parquet')).equals(other)).toBe(true);
    expect(readlinkSync(join(folder, first))).toBe(`../../../blobs/${sha256(big)}`);
    expect(readlinkSync(join(folder, 'README.md'))).toBe(`../../blobs/${gitHash(readme)}`);
    expect(readFileSync(join(root(), 'refs/main'), 'utf8')).toBe(COMMIT);
    expect(blobs()).toEqual([sha256(big), sha256(other), gitHash(readme)].sort());
  });

  test('what is there is not fetched again; a tag is another name; a commit needs none', async () => {
    await get();
    hub.log.length = 0;
    expect((await get({ revision: 'v1' })).fetched).toBe(0);
    expect(hub.log.some((line) => line.includes('/resolve/'))).toBe(false);
    expect(readdirSync(join(root(), 'refs')).sort()).toEqual(['main', 'v1']);
    await get({ revision: COMMIT });
    expect(readdirSync(join(root(), 'refs')).sort()).toEqual(['main', 'v1']);
  });

  test('only what is wanted, the same bytes under two names once, listings in pages', async () => {
    hub.files.set('copy.parquet', big);
    hub.trouble.pageSize = 2;
    const { folder, files } = await get({ wanted: (path) => path.endsWith('.parquet') });
    expect(files).toBe(3);
    expect(existsSync(join(folder, 'README.md'))).toBe(false);
    expect(readFileSync(join(folder, 'copy.parquet')).equals(big)).toBe(true);
    expect(hub.log.filter((line) => line.includes('/resolve/')).length).toBe(2);
    expect(hub.log.filter((line) => line.includes('cursor=')).length).toBe(2);
  });

  test('offline: what is there is used, anything else is an error', async () => {
    await expect(get({ offline: true })).rejects.toThrow(
      new UserError(`some/data at main is not in the cache ${cache}, and HF_HUB_OFFLINE is set`),
    );
    const { folder } = await get();
    hub.log.length = 0;
    expect(await get({ offline: true })).toMatchObject({ folder, files: 3, bytes: 350_007 });
    expect((await get({ offline: true, revision: COMMIT })).folder).toBe(folder);
    await expect(get({ offline: true, revision: 'v1' })).rejects.toThrow(/some\/data at v1 is not in the cache/);
    rmSync(join(root(), 'blobs', sha256(big)));
    await expect(get({ offline: true })).rejects.toThrow(/train-00000-of-00001\.parquet points nowhere/);
    expect(hub.log).toEqual([]);
  });
});

describe('trouble on the line', () => {
  test('a dropped connection goes on where it ended', async () => {
    Object.assign(hub.trouble, { cutAfter: 80_000, cuts: 3 });
    const notes: string[] = [];
    const seen: number[] = [];
    const { folder, fetched } = await get({
      onRetry: (message) => notes.push(message),
      onProgress: (done) => seen.push(done),
    });
    expect(readFileSync(join(folder, first)).equals(big)).toBe(true);
    expect(fetched).toBe(350_007);
    expect(notes.length).toBe(3);
    const ranges = hub.log.flatMap((line) => /parquet bytes=(\d+)-/.exec(line)?.[1] ?? []).map(Number);
    expect(ranges.length).toBe(3);
    expect(ranges.every((start) => start > 0)).toBe(true);
    expect(seen.at(-1)).toBe(350_007);
  });

  test('a server that cannot continue sends all of it again', async () => {
    Object.assign(hub.trouble, { cutAfter: 80_000, cuts: 1, ignoreRange: true });
    const { folder, fetched } = await get();
    expect(readFileSync(join(folder, first)).equals(big)).toBe(true);
    expect(fetched).toBeGreaterThan(350_007);
  });

  test('a line that never gets anywhere is given up, and the next run continues', async () => {
    Object.assign(hub.trouble, { cutAfter: 0, cuts: 1000 });
    await expect(get({ tries: 3 })).rejects.toThrow(/gave up after 3 tries/);
    expect(existsSync(join(root(), 'snapshots', COMMIT, first))).toBe(false);
    expect(existsSync(join(root(), 'refs'))).toBe(false);
    Object.assign(hub.trouble, { cutAfter: 100_000, cuts: 1 });
    await expect(get({ tries: 1, parallel: 1 })).rejects.toThrow(/gave up after 1 tries/);
    const kept = statSync(join(root(), 'blobs', `${sha256(big)}.incomplete`)).size;
    expect(kept).toBeGreaterThan(0);
    expect(kept).toBeLessThanOrEqual(100_000);
    hub.log.length = 0;
    const seen: number[] = [];
    await get({ onProgress: (done) => seen.push(done) });
    expect(seen[0]).toBe(kept);
    expect(hub.log.some((line) => line.endsWith(`bytes=${kept}-`))).toBe(true);
  });

  test('a server that always answers a wrong range is given up', async () => {
    Object.assign(hub.trouble, { cutAfter: 80_000, cuts: 1000, wrongRange: true });
    const tries: string[] = [];
    const one = { wanted: (path: string) => path === first, onRetry: (message: string) => tries.push(message) };
    await expect(get({ tries: 3, ...one })).rejects.toThrow(/gave up after 3 tries/);
    expect(tries.some((message) => message.includes('did not continue where it was asked to'))).toBe(true);
  });

  test('a busy server is asked again', async () => {
    hub.trouble.busy = 3;
    expect((await get()).files).toBe(3);
    hub.trouble.busy = 100;
    await expect(get({ tries: 2, revision: 'v1' })).rejects.toThrow(
      'the hub answered 503 Service Unavailable; gave up after 2 tries',
    );
  });

  test('a server that is not there', async () => {
    await hub.close();
    await expect(get({ tries: 2 })).rejects.toThrow(/cannot reach http:.*ECONNREFUSED.*gave up after 2 tries/);
  });
});

describe('wrong bytes', () => {
  test('are never shown: an error, nothing kept, and the next run is right', async () => {
    hub.trouble.wrongBytes = 1;
    const only = { wanted: (path: string) => path === first };
    await expect(get(only)).rejects.toThrow(/train-00000-of-00001\.parquet: the bytes received do not have the hash/);
    expect(blobs()).toEqual([]);
    expect(existsSync(join(root(), 'snapshots'))).toBe(false);
    const { folder } = await get(only);
    expect(readFileSync(join(folder, first)).equals(big)).toBe(true);
  });

  test('small files are checked as git does', async () => {
    hub.trouble.wrongBytes = 1;
    await expect(get({ wanted: (path) => path === 'README.md' })).rejects.toThrow(/README\.md: the bytes received/);
  });

  test('a spoilt partial file of an earlier run is fetched anew without an error', async () => {
    mkdirSync(join(root(), 'blobs'), { recursive: true });
    writeFileSync(join(root(), 'blobs', `${sha256(big)}.incomplete`), randomBytes(1000));
    writeFileSync(join(root(), 'blobs', `${sha256(other)}.incomplete`), randomBytes(60_000));
    const { folder } = await get();
    expect(readFileSync(join(folder, first)).equals(big)).toBe(true);
    expect(readFileSync(join(folder, 'data/test ü.parquet')).equals(other)).toBe(true);
  });

  test('listings that would lead out of the folder are refused', async () => {
    const file = { type: 'file', path: 'x', size: 1, oid: gitHash(readme) };
    for (const bad of [
      { path: '../x' },
      { path: '/x' },
      { path: 'a//b' },
      { size: -1 },
      { oid: '../../x' },
      { size: '1' },
    ]) {
      hub.trouble.listing = [{ ...file, ...bad }];
      await expect(get()).rejects.toThrow(/unusable name, size or hash/);
    }
    for (const bad of [{ path: 'a\\b' }, { path: 'a\0b' }, { path: 7 }, { path: null }, { lfs: 'x' }, { oid: null }]) {
      hub.trouble.listing = [{ ...file, ...bad }];
      await expect(get()).rejects.toThrow(
        new RegExp(`^${hub.url}\\S+ lists a file with an unusable name, size or hash`),
      );
    }
    for (const bad of [null, 3, [], {}, { ...file, type: 1 }]) {
      hub.trouble.listing = [bad];
      await expect(get()).rejects.toThrow(/lists something that is no file: /);
    }
    for (const bad of [null, [], { sha: '../../x' }, { sha: 1 }]) {
      hub.trouble.revision = bad;
      await expect(get()).rejects.toThrow(/did not name the commit of main/);
    }
    hub.trouble.revision = undefined;
    hub.trouble.listing = { error: 'no' };
    await expect(get()).rejects.toThrow(/is no list of files/);
    await expect(get({ revision: '../../x' })).rejects.toThrow(/a revision should be/);
    await expect(get({ repo: 'data' })).rejects.toThrow(/owner\/name/);
  });
});

describe('several at once', () => {
  test('a blob is fetched by one, and found by the other', async () => {
    const notes: string[] = [];
    Object.assign(hub.trouble, { cutAfter: 80_000, cuts: 2 });
    const both = await Promise.all([0, 1].map(() => get({ onWait: (message) => notes.push(message) })));
    for (const { folder } of both) expect(readFileSync(join(folder, first)).equals(big)).toBe(true);
    expect(both[0]!.fetched + both[1]!.fetched).toBe(350_007);
    expect(notes.some((note) => note.includes(`is being fetched by process ${process.pid} on `))).toBe(true);
    expect(blobs().filter((name) => name.endsWith('.incomplete'))).toEqual([]);
    expect(readdirSync(join(cache, '.locks/datasets--some--data'))).toEqual([]);
  });

  test('the lock of a process that died is no obstacle, nor one that nobody renews', async () => {
    const dead = spawnSync(process.execPath, ['-e', '']).pid;
    const locks = join(cache, '.locks/datasets--some--data');
    mkdirSync(locks, { recursive: true });
    const [left, old] = [big, other].map((bytes) => join(locks, `${sha256(bytes)}.ivtlr.lock`)) as [string, string];
    writeFileSync(left, JSON.stringify({ pid: dead, host: hostname(), key: 'x' }));
    writeFileSync(old, JSON.stringify({ pid: 1, host: 'another', key: 'x' }));
    utimesSync(old, new Date(0), new Date(0));
    expect((await get()).files).toBe(3);
    expect(readdirSync(locks)).toEqual([]);
  });
});

describe('answers that never end, and failures that stay', () => {
  test.each(['pages', 'bytes'] as const)('endless %s of a listing', async (endless) => {
    hub.trouble.endless = endless;
    const message = { pages: 'more than 100000 files or 1000 pages', bytes: 'answers with more than 64 MiB' }[endless];
    await expect(get()).rejects.toThrow(message);
  });

  test('are not tried again', async () => {
    const onRetry = () => expect.fail('tried again');
    hub.trouble.redirect = 'file:///etc/passwd';
    await expect(get({ onRetry })).rejects.toThrow(/redirects to what is no plain web address: file:\/\/\/etc\/passwd/);
    hub.trouble.redirect = `http://user:secret@${new URL(hub.url).host}/x`;
    await expect(get({ onRetry })).rejects.toThrow(/no plain web address/);
    hub.trouble.redirect = '/api/datasets/renamed/data';
    hub.repo = 'renamed/data';
    await expect(get({ onRetry })).rejects.toThrow(/did not name the commit|has no revision/);
    hub.repo = 'nobody/data';
    await expect(get({ onRetry })).rejects.toThrow(/the hub has no/);
    hub.trouble = { token: 'secret' };
    await expect(get({ onRetry, token: 'wrong' })).rejects.toThrow(/refuses some\/data for this token/);
  });

  test('a circle of redirects ends', async () => {
    hub.trouble.redirect = `${hub.url}/?`;
    await expect(get()).rejects.toThrow(/redirects more than 10 times/);
    expect(hub.log.length).toBe(11);
  });
});

describe('access', () => {
  test('the token goes to the hub and not to the store it points to', async () => {
    Object.assign(hub.trouble, { token: 'secret', store: true, cutAfter: 100_000, cuts: 1 });
    const { folder } = await get({ token: 'secret' });
    expect(readFileSync(join(folder, first)).equals(big)).toBe(true);
    const toStore = hub.log.filter((line) => line.startsWith('store '));
    expect(toStore.length).toBe(3);
    expect(toStore.some((line) => / bytes=[1-9]\d*-/.test(line))).toBe(true);
    expect(hub.log.filter((line) => !line.startsWith('store ')).every((line) => line.endsWith(' token'))).toBe(true);
  });

  test('a link to the store that ran out is asked for again', async () => {
    Object.assign(hub.trouble, { store: true, expired: 2 });
    const { folder } = await get();
    expect(readFileSync(join(folder, first)).equals(big)).toBe(true);
    expect(hub.log.filter((line) => line.startsWith('store ')).length).toBe(4);
  });

  test('what is missing is said: a token, access to gated data, the repository, the revision', async () => {
    hub.trouble.token = 'secret';
    await expect(get()).rejects.toThrow(/wants a token for some\/data: .* set HF_TOKEN/);
    await expect(get({ token: 'wrong' })).rejects.toThrow(/refuses some\/data for this token/);
    hub.trouble.gated = true;
    await expect(get()).rejects.toThrow(/some\/data is gated: ask for access at .*\/datasets\/some\/data/);
    hub.trouble = {};
    await expect(get({ repo: 'some/none' })).rejects.toThrow(/the hub has no \/api\/datasets\/some\/none/);
    await expect(get({ revision: 'v9' })).rejects.toThrow(/some\/data has no revision v9/);
    await expect(get({ wanted: () => false })).rejects.toThrow(/none of the files looked for/);
  });
});

test.skipIf(!existsSync('/dev/full'))('a full disk is named', async () => {
  mkdirSync(join(root(), 'blobs'), { recursive: true });
  symlinkSync('/dev/full', join(root(), 'blobs', `${sha256(big)}.incomplete`));
  await expect(get({ wanted: (path) => path === first })).rejects.toThrow(`the disk of ${root()} is full`);
  expect(lstatSync(join(root(), 'blobs')).isDirectory()).toBe(true);
  expect(existsSync(join(root(), 'snapshots'))).toBe(false);
});
