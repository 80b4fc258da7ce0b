import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { liveTensorCount, openCheckpoint, saveSafetensors, scope, tensor } from '../index.ts';

const baseline = liveTensorCount();
let folder: string;

beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'checkpoint-'));
});
afterEach(() => {
  fs.rmSync(folder, { recursive: true });
  expect(liveTensorCount()).toBe(baseline);
});

function shard(name: string, values: Record<string, number[]>): void {
  scope(() =>
    saveSafetensors(path.join(folder, name), new Map(Object.entries(values).map(([k, v]) => [k, tensor(v)]))),
  );
}

function index(map: unknown): void {
  fs.writeFileSync(
    path.join(folder, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: {}, weight_map: map }),
  );
}

test('a single file, found in its folder or named itself', () => {
  shard('model.safetensors', { a: [1], b: [2] });
  for (const place of [folder, path.join(folder, 'model.safetensors')]) {
    scope(() => {
      using source = openCheckpoint(place);
      expect(source.names()).toEqual(['a', 'b']);
      expect(source.read('b').toNumbers()).toEqual([2]);
    });
  }
});

test('shards: names, infos and values come from the shard the index names', () => {
  shard('one.safetensors', { a: [1, 2], spare: [9] });
  shard('two.safetensors', { b: [3] });
  index({ b: 'two.safetensors', a: 'one.safetensors' });
  scope(() => {
    using source = openCheckpoint(folder);
    expect(source.names()).toEqual(['b', 'a']);
    expect(source.has('spare')).toBe(false);
    expect(source.info('a')).toEqual({ dtype: 'float32', shape: [2] });
    expect(source.read('a', { dtype: 'float64' }).toNumbers()).toEqual([1, 2]);
    expect(source.read('b').toNumbers()).toEqual([3]);
    expect(() => source.read('spare')).toThrow(/index\.json: there is no tensor "spare"/);
  });
});

test('an index that does not fit is refused by name', () => {
  shard('one.safetensors', { a: [1] });
  index({ a: 'one.safetensors', b: 'one.safetensors' });
  expect(() => openCheckpoint(folder)).toThrow(/tensor "b" should be in one\.safetensors but is not/);
  index({ a: 'missing.safetensors' });
  expect(() => openCheckpoint(folder)).toThrow(/missing\.safetensors: cannot be read/);
  for (const outside of ['../one.safetensors', '/etc/x.safetensors', 'a\\b.safetensors', 'one.bin', 7]) {
    index({ a: outside });
    expect(() => openCheckpoint(folder)).toThrow(/which is no \.safetensors file of this folder/);
  }
  for (const [map, message] of [
    [{}, /lists no tensors/],
    [[], /no object "weight_map"/],
    [null, /no object "weight_map"/],
  ] as const) {
    index(map);
    expect(() => openCheckpoint(folder)).toThrow(message);
  }
  fs.writeFileSync(path.join(folder, 'model.safetensors.index.json'), '{');
  expect(() => openCheckpoint(folder)).toThrow(/not valid JSON/);
});

test('a folder without weights says what it has', () => {
  expect(() => openCheckpoint(folder)).toThrow(/has neither model\.safetensors nor model\.safetensors\.index\.json$/);
  fs.writeFileSync(path.join(folder, 'pytorch_model.bin'), '');
  expect(() => openCheckpoint(folder)).toThrow(/\(it has pytorch_model\.bin\)/);
  expect(() => openCheckpoint(path.join(folder, 'nowhere'))).toThrow(/there is no such folder/);
});

test('an index that is a pipe, a folder or endless, and names that cannot be files', () => {
  const place = path.join(folder, 'model.safetensors.index.json');
  execFileSync('mkfifo', [place]);
  expect(() => openCheckpoint(folder)).toThrow(/index\.json: not a file$/);
  fs.rmSync(place);
  fs.mkdirSync(place);
  expect(() => openCheckpoint(folder)).toThrow(/index\.json: not a file$/);
  fs.rmdirSync(place);
  index({ a: 'a.safetensors' });
  fs.truncateSync(place, 2 ** 26 + 1);
  expect(() => openCheckpoint(folder)).toThrow(/has 67108865 bytes, more than any checkpoint needs/);
  for (const name of ['a\u0000.safetensors', 'a\u007f.safetensors', `${'a'.repeat(300)}.safetensors`]) {
    index({ a: name });
    expect(() => openCheckpoint(folder)).toThrow(/which is no \.safetensors file of this folder$/);
  }
  expect(() => openCheckpoint('a\0b')).toThrow(/cannot be read/);
});
