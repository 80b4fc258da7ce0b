import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import {
  CheckpointError,
  cudaAvailable,
  type DType,
  empty,
  fromBytes,
  liveTensorCount,
  openSafetensors,
  saveSafetensors,
  scope,
  type Tensor,
  tensor,
  zeros,
} from '../index.ts';

// Written by Python's safetensors: see goldens/make.py.
const golden = new URL('../../goldens/dtypes.safetensors', import.meta.url).pathname;
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'safetensors-'));
const file = path.join(folder, 'x.safetensors');
const baseline = liveTensorCount();

afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => fs.rmSync(folder, { recursive: true }));

function pattern(count: number): number[] {
  return Array.from({ length: count }, (_, i) => (((i * 7919) % 23) - 11) / 8);
}

/** A file from a header as any JSON text, and that many zero bytes of data. */
function forge(header: string, data = 0): void {
  const json = Buffer.from(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  fs.writeFileSync(file, Buffer.concat([length, json, Buffer.alloc(data)]));
}

describe('a file of the reference writer', () => {
  test('every dtype is read with its shape and values', () => {
    scope(() => {
      using source = openSafetensors(golden);
      expect(source.metadata).toEqual({ format: 'pt' });
      const shown = Object.fromEntries(
        source.names().map((name) => {
          const value = source.read(name);
          expect({ dtype: value.dtype, shape: value.shape }).toEqual(source.info(name));
          return [name, [value.dtype, value.tolist()]];
        }),
      );
      const [a, b, c, d, e, f, g, h] = pattern(8);
      expect(shown).toEqual({
        f64: [
          'float64',
          [
            [a, b, c],
            [d, e, f],
          ],
        ],
        'f32.ünï': [
          'float32',
          [
            [a, b],
            [c, d],
            [e, f],
          ],
        ],
        f16: ['float16', [a, b, c, d, e]],
        bf16: [
          'bfloat16',
          [
            [
              [a, b],
              [c, d],
            ],
            [
              [e, f],
              [g, h],
            ],
          ],
        ],
        i64: ['int64', [-(2 ** 53), 0, 2 ** 53]],
        i32: ['int32', [[-(2 ** 31)], [2 ** 31 - 1]]],
        i16: ['int16', [-32768, 32767]],
        i8: ['int8', [-128, 127, 1]],
        u8: ['uint8', [0, 255]],
        bool: ['bool', [1, 0, 1]],
        scalar: ['float32', 1.5],
        empty: ['float32', []],
        0: ['float32', [7]],
      });
    });
  });

  test('is written again byte for byte', () => {
    scope(() => {
      using source = openSafetensors(golden);
      const tensors = new Map(source.names().map((name) => [name, source.read(name)]));
      saveSafetensors(file, new Map([...tensors].reverse()), { format: 'pt' });
      expect(fs.readFileSync(file).equals(fs.readFileSync(golden))).toBe(true);
    });
  });
});

describe('reading', () => {
  test('converts on the way', () => {
    scope(() => {
      using source = openSafetensors(golden);
      const wide = source.read('bf16', { dtype: 'float32' });
      expect(wide.dtype).toBe('float32');
      expect(wide.toNumbers()).toEqual(pattern(8));
      expect(source.read('empty', { dtype: 'int64' }).dtype).toBe('int64');
    });
  });

  test('a read is a copy that outlives close()', () => {
    scope(() => {
      saveSafetensors(file, new Map([['a', tensor([1, 2, 3])]]));
      const before = fs.readFileSync(file);
      const source = openSafetensors(file);
      const copy = source.read('a');
      copy.fill_(9);
      expect(source.read('a').toNumbers()).toEqual([1, 2, 3]);
      source.close();
      expect(copy.toNumbers()).toEqual([9, 9, 9]);
      expect(fs.readFileSync(file).equals(before)).toBe(true);
      expect(() => source.read('a')).toThrow(/read after close\(\)/);
    });
  });

  test('a file cut after opening is refused, one replaced by rename is still read', () => {
    scope(() => {
      saveSafetensors(file, new Map([['a', tensor([1, 2])]]));
      using source = openSafetensors(file);
      saveSafetensors(file, new Map([['a', tensor([3, 4])]]));
      expect(source.read('a').toNumbers()).toEqual([1, 2]);
      using other = openSafetensors(file);
      fs.truncateSync(file, fs.statSync(file).size - 4);
      expect(() => other.read('a')).toThrow(/x\.safetensors: ended at byte \d+; it was cut while in use/);
    });
  });

  test('data at an odd offset, as old writers left it, is read', () => {
    const header = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}';
    expect((8 + header.length) % 4).not.toBe(0);
    forge(header, 8);
    fs.writeFileSync(file, fs.readFileSync(file).fill(Buffer.from(Float32Array.of(1.5, -2).buffer), 8 + header.length));
    scope(() => {
      using source = openSafetensors(file);
      expect(source.read('a').toNumbers()).toEqual([1.5, -2]);
    });
  });

  test('bool bytes other than 0 and 1 become true', () => {
    const header = '{"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}';
    forge(header, 3);
    fs.writeFileSync(file, fs.readFileSync(file).fill(Buffer.from([0, 2, 255]), 8 + header.length));
    scope(() => {
      using source = openSafetensors(file);
      expect([...source.read('a').bytes()]).toEqual([0, 1, 1]);
    });
  });

  test('names of Object.prototype are ordinary names', () => {
    scope(() => {
      saveSafetensors(
        file,
        new Map([
          ['__proto__', tensor([1])],
          ['toString', tensor([2])],
        ]),
      );
      using source = openSafetensors(file);
      expect(source.names()).toEqual(['__proto__', 'toString']);
      expect(source.read('__proto__').toNumbers()).toEqual([1]);
      expect(source.has('constructor')).toBe(false);
    });
  });
});

describe('writing', () => {
  test('round trip of every dtype: views, transposes, and a leaf that needs a gradient', () => {
    const dtypes: DType[] = [
      'float64',
      'float32',
      'float16',
      'bfloat16',
      'int64',
      'int32',
      'int16',
      'int8',
      'uint8',
      'bool',
    ];
    scope(() => {
      const tensors = new Map<string, Tensor>();
      for (const dtype of dtypes)
        tensors.set(
          dtype,
          tensor(pattern(12).map((x) => Math.abs(x * 8)))
            .to(dtype)
            .view([3, 4])
            .transpose(0, 1),
        );
      const leaf = zeros([2], { requiresGrad: true });
      tensors.set('leaf', leaf);
      saveSafetensors(file, tensors);
      using source = openSafetensors(file);
      expect(source.names().toSorted()).toEqual([...tensors.keys()].sort());
      for (const [name, value] of tensors) {
        expect(source.info(name)).toEqual({ dtype: value.dtype, shape: value.shape });
        expect(source.read(name).bytes()).toEqual(value.bytes());
      }
    });
  });

  test('tensors larger than one piece', () => {
    scope(() => {
      const count = 1_300_001; // 2.6 MB: three pieces of 1 MiB, the last one short
      const big = fromBytes(new Uint8Array(count * 2).fill(1), 'int16', [count]);
      big.narrow(0, count - 3, 3).copy_(tensor([5, 6, 7], { dtype: 'int32' }));
      saveSafetensors(file, new Map([['big', big]]));
      using source = openSafetensors(file);
      for (const options of [{}, { dtype: 'float32' as const }])
        expect(source.read('big', options).eq(big).all().item()).toBe(1);
    });
  });

  test('the old file survives a failed write, and no temporary file stays', () => {
    saveOne('a', [3]);
    const before = fs.readFileSync(file);
    scope(() => {
      const gone = zeros([4]);
      const tensors = new Map([
        ['a', gone],
        ['b', dying()],
      ]);
      expect(() => saveSafetensors(file, tensors)).toThrow('broke off');
      expect(() => saveSafetensors(file, new Map([['__metadata__', gone]]))).toThrow(/cannot be named/);
    });
    expect(fs.readFileSync(file).equals(before)).toBe(true);
    expect(fs.readdirSync(folder)).toEqual(['x.safetensors']);
  });
});

/** Answers for its shape, then fails when its data is wanted: the write breaks off in the middle. */
function dying(): Tensor {
  return {
    dtype: 'float32',
    shape: [2],
    numel: 2,
    reshape: () => {
      throw new Error('broke off');
    },
  } as unknown as Tensor;
}

function saveOne(name: string, shape: number[]): void {
  scope(() => saveSafetensors(file, new Map([[name, empty(shape)]])));
}

describe('damaged and hostile files', () => {
  const entry = (offsets: string, shape = '[1]', dtype = 'F32') =>
    `{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}`;
  const cases: [what: string, header: string, data: number, message: RegExp][] = [
    ['no JSON', '{"a":', 0, /not valid UTF-8 JSON/],
    ['no object', '[1,2]', 0, /not a JSON object/],
    ['leading space', ` {"a":${entry('[0,4]')}}`, 4, /not a JSON object/],
    ['entry is a number', '{"a":1}', 0, /tensor "a" is not described by an object/],
    [
      'an empty tensor beyond 64 bits',
      `{"a":${entry('[0,0]', '[0,9007199254740991,9007199254740991]')}}`,
      0,
      /tensor "a" has the impossible shape/,
    ],
    ['no dtype', '{"a":{"shape":[1],"data_offsets":[0,4]}}', 4, /tensor "a" has no dtype$/],
    ['control characters', `{"a\u007f\u009b":{}}`, 0, /tensor "a\\u007f\\u009b" has no dtype/],
    [
      '2000 dimensions',
      `{"a":${entry('[0,4]', `[${new Array(2000).fill(1)}]`)}}`,
      4,
      /tensor "a" has 2000 dimensions$/,
    ],
    [
      'a long shape in a message',
      `{"a":${entry('[0,4]', `[${new Array(64).fill(7777)}]`)}}`,
      4,
      /tensor "a" has 4 bytes, but F32 of shape \[7777,.{100,130}\.\.\. needs [\d.e+]+$/,
    ],
    ['unknown dtype', `{"a":${entry('[0,4]', '[1]', 'F31')}}`, 4, /tensor "a" has the unknown dtype "F31"/],
    ['dtype of the prototype', `{"a":${entry('[0,4]', '[1]', 'toString')}}`, 4, /unknown dtype/],
    ['negative size', `{"a":${entry('[0,4]', '[-1]')}}`, 4, /no shape of non-negative integers/],
    ['fractional size', `{"a":${entry('[0,4]', '[1.5]')}}`, 4, /no shape of non-negative integers/],
    [
      'huge shape',
      `{"a":${entry('[0,4]', '[9007199254740991,9007199254740991]')}}`,
      4,
      /tensor "a" has 4 bytes, but F32 of shape/,
    ],
    ['too few bytes', `{"a":${entry('[0,4]', '[2]')}}`, 4, /tensor "a" has 4 bytes, but F32 of shape \[2\] needs 8/],
    ['offsets not a pair', `{"a":${entry('[0]')}}`, 4, /no data_offsets of two/],
    ['negative offset', `{"a":${entry('[-4,0]')}}`, 4, /no data_offsets of two/],
    ['end before begin', `{"a":${entry('[4,0]')}}`, 4, /ends at byte 0 before it begins at 4/],
    ['out of the file', `{"a":${entry('[0,4]')}}`, 3, /ends at byte 4 of the data, but the file has only 3/],
    ['overlap', `{"a":${entry('[0,4]')},"b":${entry('[2,6]')}}`, 6, /tensors "a" and "b" overlap/],
    ['gap', `{"a":${entry('[0,4]')},"b":${entry('[8,12]')}}`, 12, /4 bytes before tensor "b" belong to no tensor/],
    ['excess', `{"a":${entry('[0,4]')}}`, 5, /1 bytes after the last tensor/],
    ['twice', `{"a":${entry('[0,4]')},"\\u0061":${entry('[0,4]')}}`, 4, /tensor "a" is listed twice/],
    ['metadata', '{"__metadata__":{"a":1}}', 0, /__metadata__ must map strings to strings/],
  ];

  test.each(cases)('%s', (_, header, data, message) => {
    forge(header, data);
    expect(() => openSafetensors(file)).toThrow(CheckpointError);
    expect(() => openSafetensors(file)).toThrow(message);
    expect(() => openSafetensors(file)).toThrow(/x\.safetensors: /);
  });

  test('bytes that are no UTF-8', () => {
    forge(`{"a":${entry('[0,4]')}}`, 4);
    fs.writeFileSync(file, fs.readFileSync(file).fill(0xff, 10, 11));
    expect(() => openSafetensors(file)).toThrow(/not valid UTF-8 JSON/);
  });

  test('lengths: an empty file, half a prefix, a header beyond the file, beyond the limit', () => {
    fs.writeFileSync(file, '');
    expect(() => openSafetensors(file)).toThrow(/only 0 bytes/);
    fs.writeFileSync(file, 'abc');
    expect(() => openSafetensors(file)).toThrow(/only 3 bytes/);
    fs.writeFileSync(file, Buffer.from([9, 0, 0, 0, 0, 0, 0, 0, 123, 125]));
    expect(() => openSafetensors(file)).toThrow(/truncated, its header has 9 bytes but only 2 follow/);
    fs.writeFileSync(file, Buffer.alloc(16, 0xff));
    expect(() => openSafetensors(file)).toThrow(/its header would have 18446744073709551615 bytes/);
  });

  test('every cut of a good file is refused', () => {
    const whole = fs.readFileSync(golden);
    for (let length = 0; length < whole.length; length += 7) {
      fs.writeFileSync(file, whole.subarray(0, length));
      expect(() => openSafetensors(file)).toThrow(CheckpointError);
    }
  });

  test('an unsupported dtype is listed but not read; unknown names and absent files are named', () => {
    forge(`{"a":${entry('[0,8]', '[1]', 'U64')}}`, 8);
    const source = openSafetensors(file);
    expect(source.names()).toEqual(['a']);
    expect(() => source.read('a')).toThrow(/x\.safetensors: tensor "a" has dtype U64, which is not supported/);
    expect(() => source.info('b')).toThrow(/there is no tensor "b"/);
    source.close();
    expect(() => openSafetensors(path.join(folder, 'none'))).toThrow(/none: cannot be read \(ENOENT\)/);
    expect(() => openSafetensors(folder)).toThrow(/not a file/);
  });
});

test.runIf(cudaAvailable())('a GPU gets what the CPU gets, larger tensors than a piece too', () => {
  scope(() => {
    const large = fromBytes(
      Uint8Array.from({ length: 2 ** 25 + 6 }, (_, i) => (i * 31) % 251),
      'uint8',
      [2 ** 25 + 6],
    );
    saveSafetensors(file, new Map(Object.entries({ large, small: tensor(pattern(7)), none: empty([0]) })));
    using source = openSafetensors(file);
    for (const name of source.names())
      expect(source.read(name, { device: 'cuda:0' }).to({ device: 'cpu' }).bytes).toEqual(source.read(name).bytes);
    expect(source.read('small', { device: 'cuda:0', dtype: 'bfloat16' }).to({ device: 'cpu' }).tolist()).toEqual(
      source.read('small', { dtype: 'bfloat16' }).tolist(),
    );
  });
});
