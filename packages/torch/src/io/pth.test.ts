import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { CheckpointError, liveTensorCount, openPth, scope } from '../index.ts';

// Written by torch.save: see goldens/make_pth.py.
const golden = (name: string) => new URL(`../../goldens/pth/${name}`, import.meta.url).pathname;
type Described = Record<string, { dtype: string; shape: number[]; values: number[] }>;
const values = JSON.parse(fs.readFileSync(golden('values.json'), 'utf8')) as Record<string, Described>;
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'pth-'));
const baseline = liveTensorCount();

afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => fs.rmSync(folder, { recursive: true }));

describe('files of torch.save', () => {
  test.each(['state-dict.pth', 'module.pth'])('%s: dtypes, shapes and values, strided views too', (name) => {
    scope(() => {
      using source = openPth(golden(name));
      const shown = Object.fromEntries(
        source
          .names()
          .filter((key) => key !== 'complex')
          .map((key) => {
            const value = source.read(key);
            expect({ dtype: value.dtype, shape: value.shape }).toEqual(source.info(key));
            return [key, { dtype: value.dtype, shape: [...value.shape], values: value.to('float64').toNumbers() }];
          }),
      );
      expect(shown).toEqual(values[name]);
    });
  });

  test('other values are listed, a dtype without counterpart is listed but not read', () => {
    using source = openPth(golden('state-dict.pth'));
    expect(source.skipped).toEqual([
      { name: 'epoch', kind: 'a number' },
      { name: 'lr', kind: 'a number' },
      { name: 'big', kind: 'a number' },
      { name: 'done', kind: 'a bool' },
      { name: 'nothing', kind: 'None' },
      { name: 'text', kind: 'a string' },
      { name: 'pair', kind: 'a tuple' },
      { name: 'names', kind: 'a list' },
    ]);
    expect(source.names()).toContain('complex');
    expect(() => source.read('complex')).toThrow(/state-dict\.pth: tensor "complex" has dtype complex64, which is not/);
    expect(() => source.read('epoch')).toThrow(/there is no tensor "epoch"/);
  });

  test('conversion on the way; names follow the file', () => {
    scope(() => {
      using source = openPth(golden('state-dict.pth'));
      expect(source.read('bfloat16 part', { dtype: 'float32' }).toNumbers()).toEqual(
        values['state-dict.pth']!['bfloat16 part']!.values,
      );
      expect(source.read('transposed', { dtype: 'float64' }).dtype).toBe('float64');
      expect(source.read('transposed').isContiguous).toBe(true);
      expect(source.names().slice(0, 3)).toEqual(['float64', 'float32', 'float16']);
      expect(source.has('row') && !source.has('rows')).toBe(true);
    });
  });

  test('a file without checksums is read', () => {
    scope(() => {
      using source = openPth(golden('no-checksums.pth'));
      const { values: wanted } = values['module.pth']!['0.weight']!;
      expect(source.read('0.weight').toNumbers()).toEqual(wanted);
    });
  });

  test.each([
    ['legacy.pth', /legacy\.pth: in torch\.save's old format from before torch 1\.6; load it and save it again/],
    ['nested.pth', /has no tensors at its top level, but a dictionary "model"; save that one by itself/],
    [
      'whole-module.pth',
      /names "torch\.nn\.modules\.container\.Sequential", which is no part of a state dict; it is refu/,
    ],
    ['bare-tensor.pth', /holds a tensor or storage, not a state dict/],
    ['code.pth', /names "posix\.system", which is no part of a state dict; it is refused and nothing was run/],
    ['protocol-4.pth', /data\.pkl has protocol 4; only 2, torch\.save's own, is read/],
    ['float8.pth', /names "torch\._utils\._rebuild_tensor_v3", which is no part/],
    ['values.json', /no zip file, or truncated/],
  ])('%s is refused', (name, message) => {
    expect(() => openPth(golden(name))).toThrow(CheckpointError);
    expect(() => openPth(golden(name))).toThrow(message);
  });

  test('absent files and folders are named, a closed file is not read', () => {
    expect(() => openPth(path.join(folder, 'none'))).toThrow(/none: cannot be read \(ENOENT\)/);
    expect(() => openPth(folder)).toThrow(/not a file/);
    const source = openPth(golden('module.pth'));
    source.close();
    expect(() => source.read('0.weight')).toThrow(/module\.pth: read after close/);
  });

  test('every cut is refused, and so is a changed byte of a tensor', () => {
    const whole = fs.readFileSync(golden('module.pth'));
    const file = path.join(folder, 'cut.pth');
    for (let length = 0; length < whole.length; length += 13) {
      fs.writeFileSync(file, whole.subarray(0, length));
      expect(() => openPth(file)).toThrow(CheckpointError);
    }
    const changed = Buffer.from(whole);
    const at = whole.indexOf(Buffer.from(new Float32Array(values['module.pth']!['0.weight']!.values).buffer));
    changed.writeUInt8(changed[at]! ^ 1, at);
    fs.writeFileSync(file, changed);
    using source = openPth(file);
    expect(() => source.read('0.weight')).toThrow(/tensor "0\.weight" is damaged: the checksum of its bytes is wrong/);
  });
});
