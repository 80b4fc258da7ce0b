/** Files no torch.save would write: each must give one clear error, and nothing may run, hang or fill the memory. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { crc32, deflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CheckpointError, liveTensorCount, openPth, scope } from '../index.ts';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'pth-hostile-'));
const file = path.join(folder, 'x.pth');
let baseline: number;

beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => fs.rmSync(folder, { recursive: true }));

interface Part {
  name: string;
  data: Uint8Array;
  method?: number;
  flags?: number;
  /** Claimed sizes. */
  size?: number;
  packed?: number;
  at?: number;
  localName?: string;
}

const u16 = (value: number) => Buffer.from(new Uint16Array([value]).buffer);
const u32 = (value: number) => Buffer.from(new Uint32Array([value]).buffer);
const u64 = (value: number) => Buffer.from(new BigUint64Array([BigInt(value)]).buffer);

/** A zip file as PKWARE's APPNOTE draws it; `wide` writes every size and offset into zip64 records. */
function zip(parts: readonly Part[], { wide = false, comment = '', count = parts.length } = {}): Buffer {
  const locals: Buffer[] = [];
  const central: Buffer[] = [];
  let position = 0;
  for (const part of parts) {
    const { name, data, method = 0, flags = 0, localName = name } = part;
    const { size = data.length, packed = size, at = position } = part;
    const fields = [u16(flags), u16(method), u32(0), u32(crc32(data))];
    const local = Buffer.concat([
      u32(0x04034b50),
      u16(20),
      ...fields,
      u32(packed),
      u32(size),
      u16(localName.length),
      u16(0),
    ]);
    locals.push(local, Buffer.from(localName), Buffer.from(data));
    const extra = wide ? Buffer.concat([u16(1), u16(24), u64(size), u64(packed), u64(at)]) : Buffer.alloc(0);
    const sizes = wide ? [u32(0xffffffff), u32(0xffffffff)] : [u32(packed), u32(size)];
    const lengths = [u16(name.length), u16(extra.length), u16(0), u16(0), u16(0), u32(0)];
    central.push(u32(0x02014b50), u16(20), u16(20), ...fields, ...sizes, ...lengths, u32(wide ? 0xffffffff : at));
    central.push(Buffer.from(name), extra);
    position += local.length + localName.length + data.length;
  }
  const directory = Buffer.concat(central);
  const end64 = [
    u32(0x06064b50),
    u64(44),
    u16(45),
    u16(45),
    u32(0),
    u32(0),
    u64(count),
    u64(count),
    u64(directory.length),
    u64(position),
  ];
  const locator = [u32(0x07064b50), u32(0), u64(position + directory.length), u32(1)];
  const [c, b, a] = wide ? [0xffff, 0xffffffff, 0xffffffff] : [count, directory.length, position];
  const end = [
    u32(0x06054b50),
    u16(0),
    u16(0),
    u16(c),
    u16(c),
    u32(b),
    u32(a),
    u16(comment.length),
    Buffer.from(comment),
  ];
  return Buffer.concat([...locals, directory, ...(wide ? [...end64, ...locator] : []), ...end]);
}

const text = (value: string) => Buffer.concat([Buffer.from('X'), u32(Buffer.byteLength(value)), Buffer.from(value)]);
const int = (value: number) => Buffer.from([0x8a, 8, ...Buffer.from(new BigInt64Array([BigInt(value)]).buffer)]);
const tuple = (...items: Buffer[]) => Buffer.concat([Buffer.from('('), ...items, Buffer.from('t')]);
const name = (module: string, item: string) => Buffer.from(`c${module}\n${item}\n`);
const call = (callable: Buffer, ...args: Buffer[]) => Buffer.concat([callable, tuple(...args), Buffer.from('R')]);
const pickle = (...body: Buffer[]) => Buffer.concat([Buffer.from([0x80, 2]), ...body, Buffer.from('.')]);
const dict = (...items: Buffer[]) => Buffer.concat([Buffer.from('}('), ...items, Buffer.from('u')]);

interface Claim {
  offset?: number;
  shape?: number[];
  strides?: number[];
  stored?: number;
  key?: string;
  type?: string;
  hooks?: Buffer;
}

const noHooks = call(name('collections', 'OrderedDict'));

function tensorOf({
  offset = 0,
  shape = [2, 3],
  strides = [3, 1],
  stored = 6,
  key = '0',
  type = 'FloatStorage',
  hooks = noHooks,
}: Claim = {}): Buffer {
  const memory = Buffer.concat([
    tuple(text('storage'), name('torch', type), text(key), text('cpu'), int(stored)),
    Buffer.from('Q'),
  ]);
  return call(
    name('torch._utils', '_rebuild_tensor_v2'),
    memory,
    int(offset),
    tuple(...shape.map(int)),
    tuple(...strides.map(int)),
    Buffer.from([0x89]),
    hooks,
  );
}

const six = new Uint8Array(new Float32Array([0, 1, 2, 3, 4, 5]).buffer);
const storage: Part = { name: 'x/data/0', data: six };

function archive(data: Buffer, ...more: Part[]): Buffer {
  return zip([{ name: 'x/data.pkl', data }, storage, ...more]);
}

function refuses(bytes: Uint8Array, message: RegExp): void {
  fs.writeFileSync(file, bytes);
  const error = (() => {
    try {
      return openPth(file);
    } catch (error) {
      return error;
    }
  })();
  expect(error).toBeInstanceOf(CheckpointError);
  expect((error as Error).message).toMatch(message);
  expect((error as Error).message).toMatch(/^[^\n]*x\.pth[^\n]*$/);
}

test('the forged files are good ones where nothing is wrong with them', () => {
  for (const options of [{}, { wide: true }, { comment: 'a comment' }]) {
    fs.writeFileSync(file, zip([{ name: 'x/data.pkl', data: pickle(dict(text('a'), tensorOf())) }, storage], options));
    scope(() => {
      using source = openPth(file);
      expect(source.read('a').toNumbers()).toEqual([0, 1, 2, 3, 4, 5]);
    });
  }
});

describe('tensors', () => {
  const cases: [what: string, claim: Claim, message: RegExp][] = [
    ['negative offset', { offset: -1 }, /tensor "a" has no offset of 0 or more/],
    ['offset beyond the memory', { offset: 1 }, /tensor "a" reaches to value 7 of its memory, which has only 6/],
    ['negative stride', { strides: [-3, 1] }, /has no strides of non-negative integers/],
    ['stride out of the memory', { strides: [4, 1] }, /reaches to value 7 of its memory/],
    ['huge stride', { strides: [2 ** 53 - 1, 1] }, /reaches to value .* of its memory/],
    ['negative size', { shape: [-2, 3] }, /has no shape of non-negative integers/],
    ['size beyond doubles', { shape: [2 ** 60, 3], strides: [0, 0] }, /has no shape of non-negative integers/],
    ['expanded to any size', { shape: [2 ** 40, 3], strides: [0, 1] }, /more values than the 6 stored for it/],
    ['impossible beside a 0', { shape: [0, 2 ** 52, 2 ** 52], strides: [0, 0, 0] }, /has the impossible shape/],
    ['fewer strides', { strides: [1] }, /has 2 sizes but 1 strides/],
    ['too many dimensions', { shape: Array(65).fill(1), strides: Array(65).fill(1) }, /has 65 dimensions/],
    [
      'memory larger than its entry',
      { stored: 7 },
      /lies in 7 values of float32, which are 28 bytes, but "x\/data\/0" has 24/,
    ],
    ['memory smaller than its entry', { stored: 5 }, /5 values of float32, which are 20 bytes/],
    ['negative memory', { stored: -6 }, /refers to memory that is not described as torch\.save describes it/],
    ['no such memory', { key: '1' }, /should lie in entry data\/"1", which the file does not have/],
    ['memory outside of data/', { key: '../data.pkl' }, /which the file does not have/],
    ['unknown memory', { type: 'UntypedStorage' }, /names "torch\.UntypedStorage"/],
    ['memory of the prototype', { type: 'toString' }, /names "torch\.toString"/],
    ['hooks', { hooks: dict(text('h'), int(1)) }, /gives wrong arguments to "torch\._utils\._rebuild_tensor_v2"/],
  ];
  test.each(cases)('%s', (_, claim, message) => {
    refuses(archive(pickle(dict(text('a'), tensorOf(claim)))), message);
  });
});

describe('pickles', () => {
  const nest = (depth: number) => Buffer.concat([Buffer.alloc(depth, '('), Buffer.alloc(depth, 't')]);
  const system = call(name('os', 'system'), text('touch pwned'));
  const cases: [what: string, data: Buffer, message: RegExp][] = [
    [
      'os.system',
      pickle(dict(text('a'), system)),
      /names "os\.system", which is no part of a state dict; it is refused and nothing was run/,
    ],
    ['eval', pickle(call(name('builtins', 'eval'), text('1'))), /names "builtins\.eval"/],
    [
      'a name that is only mentioned',
      pickle(dict(text('a'), name('subprocess', 'Popen'))),
      /names "subprocess\.Popen"/,
    ],
    [
      'a longer name',
      pickle(name('torch._utils', '_rebuild_tensor_v2.__globals__')),
      /it is refused and nothing was run/,
    ],
    [
      'a storage called',
      pickle(call(name('torch', 'FloatStorage'), int(6))),
      /calls "torch\.FloatStorage"; it is refused/,
    ],
    ['a string called', pickle(call(text('f'))), /calls a string/],
    [
      'OrderedDict with arguments',
      pickle(call(name('collections', 'OrderedDict'), int(1))),
      /gives arguments to "collections\.OrderedDict"/,
    ],
    ['few arguments', pickle(call(name('torch._utils', '_rebuild_tensor_v2'), int(1))), /gives wrong arguments to/],
    [
      'parameter of a number',
      pickle(call(name('torch._utils', '_rebuild_parameter'), int(1), Buffer.from([0x88]), noHooks)),
      /gives wrong arguments/,
    ],
    ['attributes of a tensor', pickle(tensorOf(), dict(), Buffer.from('b')), /sets attributes of a tensor or storage/],
    ['INST', Buffer.from('\x80\x02(ios\nsystem\n.', 'latin1'), /uses the opcode INST, which no state dict needs/],
    ['STACK_GLOBAL', pickle(text('os'), text('system'), Buffer.from([0x93])), /uses the opcode STACK_GLOBAL/],
    ['NEWOBJ', pickle(name('collections', 'OrderedDict'), tuple(), Buffer.from([0x81])), /uses the opcode NEWOBJ/],
    ['EXT1', pickle(Buffer.from([0x82, 1])), /uses the opcode EXT1/],
    ['an unknown opcode', pickle(Buffer.from([0xff])), /uses the opcode 0xff/],
    ['deep nesting', pickle(nest(5_000_000)), /nested more than 100 deep/],
    [
      'deep nesting without groups',
      pickle(Buffer.from(')'), Buffer.alloc(3_000_000, 0x85)),
      /more than 1000000 opcodes/,
    ],
    [
      'millions of objects',
      pickle(Buffer.from('('), Buffer.alloc(10_000_000, '}'), Buffer.from('t')),
      /more than 1000000 opcodes/,
    ],
    ['a list in itself', pickle(Buffer.from(']q\x00h\x00a', 'latin1')), /holds a list, not a state dict/],
    [
      'doubling tuples',
      pickle(Buffer.from(')'), ...Array(60).fill(Buffer.from('q\x00h\x00\x86', 'latin1'))),
      /holds a tuple, not a state dict/,
    ],
    [
      'a huge memo index',
      pickle(dict(), Buffer.from('r\xff\xff\xff\xffj\xff\xff\xff\xfes', 'latin1')),
      /recalls value 4278190079, which it never stored/,
    ],
    ['a string longer than the file', Buffer.from('\x80\x02X\xff\xff\xff\xff', 'latin1'), /is truncated/],
    ['no end', Buffer.from('\x80\x02}', 'latin1'), /is truncated/],
    ['an endless name', Buffer.from('\x80\x02cos', 'latin1'), /is truncated/],
    ['a huge integer', pickle(Buffer.from([0x8a, 255]), Buffer.alloc(255, 1)), /an integer of 255 bytes/],
    ['an empty stack', pickle(Buffer.from('R')), /takes values that are not there/],
    ['a group never opened', pickle(Buffer.from('t')), /closes a group that was never opened/],
    ['bytes after the end', Buffer.concat([pickle(dict()), Buffer.from('cos\nsystem\n')]), /bytes after its end/],
    ['values left over', pickle(int(1), dict()), /ends with values left over/],
    ['not UTF-8', pickle(Buffer.from('X\x01\x00\x00\x00\xff', 'latin1')), /a string that is not UTF-8/],
    ['the same name twice', pickle(dict(text('a'), tensorOf(), text('a'), tensorOf())), /lists the key "a" twice/],
    ['a tuple as name', pickle(dict(tuple(), int(1))), /a dictionary whose key is a tuple/],
    ['an item without value', pickle(dict(text('a'))), /sets an item without a value/],
    ['no pickle', Buffer.from('hello'), /does not start as a pickle/],
    ['nothing', Buffer.alloc(0), /does not start as a pickle/],
    ['memory that is a number', pickle(int(1), Buffer.from('Q')), /memory that is not described as torch\.save/],
  ];
  test.each(cases)('%s', (_, data, message) => {
    const started = performance.now();
    refuses(archive(data), message);
    expect(performance.now() - started).toBeLessThan(20_000);
    expect(fs.existsSync('pwned')).toBe(false);
  });

  test('a pickle beyond all sizes', () => {
    refuses(
      archive(Buffer.alloc(2 ** 24 + 1)),
      /entry "x\/data\.pkl" has 16777217 bytes, more than any checkpoint needs/,
    );
  });
});

describe('archives', () => {
  const good = pickle(dict(text('a'), tensorOf()));
  const data: Part = { name: 'x/data.pkl', data: good };
  const bomb = deflateRawSync(Buffer.alloc(10_000_000));
  const cases: [what: string, bytes: Buffer, message: RegExp][] = [
    [
      'a bomb',
      zip([data, { name: 'x/data/0', data: bomb, method: 8, size: 10_000_000, packed: bomb.length }]),
      /entry "x\/data\/0" is compressed \(method 8\), which torch\.save never does/,
    ],
    ['an encrypted entry', zip([data, { ...storage, flags: 1 }]), /entry "x\/data\/0" is encrypted/],
    ['a size beyond the file', zip([data, { ...storage, size: 10_000 }]), /entry "x\/data\/0" reaches out of the file/],
    ['a size of 2^62', zip([data, { ...storage, size: 2 ** 62 }], { wide: true }), /reaches out of the file/],
    ['two different sizes', zip([data, { ...storage, packed: 20 }]), /has 24 bytes but takes 20 in the file/],
    ['overlapping entries', zip([data, storage, { name: 'x/data/1', data: six, at: 0 }]), /overlaps the one before it/],
    ['an entry twice', zip([data, storage, storage]), /entry "x\/data\/0" is listed twice/],
    ['more entries than there are', zip([data, storage], { count: 3 }), /its zip directory is damaged/],
    ['fewer entries than there are', zip([data, storage], { count: 1 }), /bytes beyond its 1 entries/],
    [
      'a directory at 2^60',
      patched(zip([data, storage], { wide: true }), (end) => end - 20 - 8, u64(2 ** 60)),
      /zip directory reaches out of the file/,
    ],
    [
      'a locator to nowhere',
      patched(zip([data, storage], { wide: true }), (end) => end - 12, u64(2 ** 60)),
      /its zip64 directory is damaged/,
    ],
    ['several parts', patched(zip([data, storage]), (end) => end + 4, u16(1)), /a zip file in several parts/],
    ['no pickle', zip([storage]), /not one of torch\.save: it has no data\.pkl/],
    ['two pickles', zip([data, storage, { name: 'y/data.pkl', data: good }]), /it has several data\.pkl/],
    ['a TorchScript program', zip([data, storage, { name: 'x/constants.pkl', data: good }]), /a TorchScript program/],
    ['big-endian', zip([data, storage, { name: 'x/byteorder', data: Buffer.from('big') }]), /its byte order is "big"/],
    [
      'a storage of another name',
      zip([data, { ...storage, localName: 'x/data/7' }]),
      /entry "x\/data\/0" has another name at its place: "x\/data\/7"/,
    ],
    [
      'a pickle of another name',
      zip([{ ...data, localName: 'x/data.pkx' }, storage]),
      /entry "x\/data\.pkl" has another name at its place/,
    ],
    ['an empty zip', zip([]), /it has no data\.pkl/],
    ['an empty file', Buffer.alloc(0), /no zip file, or truncated/],
    ['a bare pickle', good, /a bare pickle, not a file of torch\.save/],
  ];
  test.each(cases)('%s', (_, bytes, message) => refuses(bytes, message));

  test('a file of 5 GiB is read at its end with little memory', () => {
    const head = zip([data]);
    const gap = 5 * 2 ** 30;
    const wide = zip([data, storage], { wide: true });
    // The storage and all after it move behind a hole that takes no room on the disk.
    const localAt = wide.indexOf('PK\x03\x04', 1, 'latin1');
    const moved = Buffer.from(wide);
    const directoryAt = wide.indexOf('PK\x01\x02', 0, 'latin1');
    const secondAt = wide.indexOf('PK\x01\x02', directoryAt + 1, 'latin1');
    u64(localAt + gap).copy(moved, secondAt + 46 + storage.name.length + 4 + 16);
    const end = wide.length - 22;
    u64(directoryAt + gap).copy(moved, end - 20 - 8);
    u64(end - 20 - 56 + gap).copy(moved, end - 12);
    const fd = fs.openSync(file, 'w');
    fs.writeSync(fd, moved, 0, localAt, 0);
    fs.writeSync(fd, moved, localAt, moved.length - localAt, localAt + gap);
    fs.closeSync(fd);
    expect(fs.statSync(file).size).toBeGreaterThan(gap + head.length);
    const before = process.memoryUsage.rss();
    scope(() => {
      using source = openPth(file);
      expect(source.read('a').toNumbers()).toEqual([0, 1, 2, 3, 4, 5]);
    });
    expect(process.memoryUsage.rss() - before).toBeLessThan(2 ** 27);
    fs.rmSync(file);
  });
});

/** Bytes replaced at a place counted from the end record. */
function patched(bytes: Buffer, at: (end: number) => number, by: Buffer): Buffer {
  by.copy(bytes, at(bytes.length - 22));
  return bytes;
}

test('a changed pickle whose checksum was made right again gives a file or an error, and nothing else', () => {
  const good = pickle(dict(text('a'), tensorOf(), text('b'), tensorOf({ offset: 1, shape: [2], strides: [2] })));
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 3 }), (changes) => {
      const bytes = Buffer.from(good);
      for (const [at, value] of changes) bytes[at] = value;
      fs.writeFileSync(file, archive(bytes));
      try {
        scope(() => {
          using source = openPth(file);
          for (const key of source.names()) source.read(key);
        });
      } catch (error) {
        if (!(error instanceof CheckpointError)) throw error;
      }
    }),
    { numRuns: 2000 },
  );
});
