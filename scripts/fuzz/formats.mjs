/** Damage that knows a format, so that it gets past the first check: pieces of images, entries and opcodes of .pth files, Parquet's footer and pages. */
import { crc32, deflateSync, inflateSync } from 'node:zlib';
import { damageBytes, damageJsonText, pick } from './damage.mjs';

/** An image with pieces (chunks, segments, blocks) dropped, repeated, exchanged or damaged. */
export function damageImage(random, bytes) {
  const png = bytes[0] === 0x89;
  const pieces = png ? pngChunks(bytes) : bytes[0] === 0xff ? jpegSegments(bytes) : blocks(bytes);
  for (let left = 1 + random.below(3); left > 0 && pieces.length > 1; left--) {
    const at = random.below(pieces.length);
    const change = random.below(7);
    if (change === 0) pieces.splice(at, 1);
    else if (change === 1) pieces.splice(random.below(pieces.length), 0, pieces[at]);
    else if (change === 2) pieces.push(...pieces.splice(at, 1));
    else if (change === 3 && png) pieces[at] = damagePixels(random, pieces[at]);
    else pieces[at] = damageBytes(random, pieces[at]);
  }
  if (png && random.below(5) > 0) for (const [i, piece] of pieces.entries()) pieces[i] = withChecksum(piece, i);
  return Buffer.concat(pieces);
}

function pngChunks(bytes) {
  const chunks = [bytes.subarray(0, 8)];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const end = at + 12 + bytes.readUInt32BE(at);
    chunks.push(bytes.subarray(at, end));
    at = end;
  }
  return chunks;
}

/** Length and CRC made right again, as far as the chunk still is one. */
function withChecksum(chunk, index) {
  if (index === 0 || chunk.length < 12) return chunk;
  const whole = Buffer.from(chunk);
  whole.writeUInt32BE(whole.length - 12, 0);
  whole.writeUInt32BE(crc32(whole.subarray(4, -4)), whole.length - 4);
  return whole;
}

/** Changed bytes inside the compressed pixels. */
function damagePixels(random, chunk) {
  if (chunk.toString('latin1', 4, 8) !== 'IDAT') return damageBytes(random, chunk);
  try {
    const pixels =
      random.below(20) === 0 ? Buffer.alloc(2 ** 25) : damageBytes(random, inflateSync(chunk.subarray(8, -4)));
    return Buffer.concat([chunk.subarray(0, 8), deflateSync(pixels), chunk.subarray(-4)]);
  } catch {
    return damageBytes(random, chunk);
  }
}

function jpegSegments(bytes) {
  const segments = [bytes.subarray(0, 2)];
  for (let at = 2; at + 4 <= bytes.length; ) {
    const end = bytes[at + 1] === 0xda ? bytes.length : at + 2 + bytes.readUInt16BE(at + 2);
    segments.push(bytes.subarray(at, end));
    at = end;
  }
  return segments;
}

/** GIF and WebP: the header, and the rest in pieces at random borders that are often right. */
function blocks(bytes) {
  const header = bytes[0] === 0x47 ? 13 : 12;
  const pieces = [bytes.subarray(0, header)];
  for (let at = header; at < bytes.length; ) {
    const webp = header === 12 && at + 8 <= bytes.length;
    const length = webp ? 8 + bytes.readUInt32LE(at + 4) : 256;
    pieces.push(bytes.subarray(at, at + length));
    at += length;
  }
  return pieces;
}

/** A safetensors file whose header's JSON is changed and whose length is right. */
export function damageSafetensors(random, bytes) {
  const length = Number(bytes.readBigUInt64LE(0));
  const header = damageJsonText(random, JSON.parse(bytes.toString('utf8', 8, 8 + length)));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([prefix, header, bytes.subarray(8 + length)]);
}

/** A file of torch.save: its pickle or its entries changed, and packed again with right checksums. */
export function damagePth(random, bytes) {
  const entries = zipEntries(bytes);
  if (entries.length === 0) return damageBytes(random, bytes);
  const change = random.below(10);
  if (change < 7) {
    const pickle = entries.find(({ name }) => name.endsWith('data.pkl'));
    pickle.data = damagePickle(random, pickle.data);
  } else if (change === 7) entries.splice(random.below(entries.length), 1);
  else if (change === 8) {
    const [one, other] = [pick(random, entries), pick(random, entries)];
    one.name = pick(random, [other.name, `../${one.name}`, 'data.pkl', 'a/data.pkl', '', '\u001b[31m']);
  } else {
    const entry = pick(random, entries);
    entry.data = damageBytes(random, entry.data);
  }
  const packed = packZip(entries, random.below(4) > 0);
  return random.below(8) === 0 ? damageBytes(random, packed) : packed;
}

function zipEntries(bytes) {
  const end = bytes.lastIndexOf('PK\x05\x06', undefined, 'latin1');
  if (end < 0) return [];
  const entries = [];
  let at = bytes.readUInt32LE(end + 16);
  for (let count = bytes.readUInt16LE(end + 10); count > 0; count--) {
    const [nameBytes, extra, comment] = [28, 30, 32].map((field) => bytes.readUInt16LE(at + field));
    const header = bytes.readUInt32LE(at + 42);
    const start = header + 30 + bytes.readUInt16LE(header + 26) + bytes.readUInt16LE(header + 28);
    const data = bytes.subarray(start, start + bytes.readUInt32LE(at + 24));
    entries.push({ name: bytes.toString('utf8', at + 46, at + 46 + nameBytes), data });
    at += 46 + nameBytes + extra + comment;
  }
  return entries;
}

/** A zip file of stored entries; without `checked` no checksums. */
export function packZip(entries, checked = true) {
  const [files, directory] = [[], []];
  let offset = 0;
  for (const { name, data } of entries) {
    const title = Buffer.from(name);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt32LE(checked ? crc32(data) : 0, 14);
    local.writeUInt32LE(data.length, 18);
    local.writeUInt32LE(data.length, 22);
    local.writeUInt16LE(title.length, 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    local.copy(central, 16, 14, 28);
    central.writeUInt32LE(offset, 42);
    files.push(local, title, data);
    directory.push(central, title);
    offset += 30 + title.length + data.length;
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(Buffer.concat(directory).length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...files, ...directory, end]);
}

/** Bytes that follow an opcode; GLOBAL and BINUNICODE are told apart below. */
const ARGUMENTS = { 128: 1, 75: 1, 77: 2, 74: 4, 71: 8, 104: 1, 106: 4, 113: 1, 114: 4, 138: 9 };
const ODD_OPCODES = [
  Buffer.from('cos\nsystem\n'),
  Buffer.from('cbuiltins\neval\n'),
  Buffer.from('ctorch\nFloatStorage\n'),
  Buffer.from([0x8a, 8, 255, 255, 255, 255, 255, 255, 255, 127]),
  Buffer.from([0x4a, 255, 255, 255, 255]),
  Buffer.from([0x4a, 255, 255, 255, 127]),
  Buffer.from([0x47, 127, 248, 0, 0, 0, 0, 0, 0]),
  Buffer.from([0x58, 255, 255, 255, 255]),
  Buffer.from([0x6a, 255, 255, 255, 255]),
  ...[0x28, 0x29, 0x2e, 0x30, 0x4e, 0x51, 0x52, 0x5d, 0x61, 0x62, 0x65, 0x73, 0x74, 0x75, 0x7d, 0x81, 0x85, 0x87].map(
    (opcode) => Buffer.from([opcode]),
  ),
  Buffer.alloc(5000, 0x28),
  Buffer.alloc(5000, 0x5d),
];

function damagePickle(random, bytes) {
  const operations = [];
  for (let at = 0; at < bytes.length; ) {
    let length = 1 + (ARGUMENTS[bytes[at]] ?? 0);
    if (bytes[at] === 0x58 && at + 5 <= bytes.length) length = 5 + bytes.readUInt32LE(at + 1);
    if (bytes[at] === 0x8a) length = 2 + bytes[at + 1];
    if (bytes[at] === 0x63) length = bytes.indexOf(10, bytes.indexOf(10, at) + 1) + 1 - at;
    // Pickles of other protocols have opcodes that are not told apart here.
    if (!(length > 0)) length = 1;
    operations.push(bytes.subarray(at, at + length));
    at += length;
  }
  for (let left = 1 + random.below(3); left > 0; left--) {
    const at = random.below(operations.length);
    const change = random.below(6);
    if (change === 0) operations.splice(at, 1);
    else if (change === 1) operations.splice(at, 0, pick(random, operations));
    else if (change === 2) operations.splice(at, 0, pick(random, ODD_OPCODES));
    else if (change === 3) operations[at] = pick(random, ODD_OPCODES);
    else if (change === 4) operations[at] = pick(random, operations);
    else operations[at] = damageBytes(random, operations[at]);
    if (operations.length === 0) operations.push(Buffer.of(0x2e));
  }
  return Buffer.concat(operations);
}

/** A Parquet file with numbers, lengths or types of its footer or of a page's header changed, and the footer's length right. */
export function damageParquet(random, bytes) {
  const footerAt = bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8);
  if (random.below(3) === 0) return damagePage(random, bytes, footerAt);
  const footer = damageThrift(random, bytes.subarray(footerAt, -8));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(footer.length);
  return Buffer.concat([bytes.subarray(0, footerAt), footer, length, Buffer.from('PAR1')]);
}

/** The header of one page, in place: later offsets stay right where the new number is as long as the old one. */
function damagePage(random, bytes, footerAt) {
  const pages = [];
  for (let at = 4; at < footerAt; ) {
    const { end, numbers } = thriftMarks(bytes, at);
    const size = numbers.find(({ field }) => field === 3)?.value ?? 0;
    if (end > footerAt || size < 0) break;
    pages.push([at, end]);
    at = end + size;
  }
  if (pages.length === 0) return damageBytes(random, bytes);
  const [from, to] = pick(random, pages);
  return Buffer.concat([bytes.subarray(0, from), damageThrift(random, bytes.subarray(from, to)), bytes.subarray(to)]);
}

function damageThrift(random, bytes) {
  let result = Buffer.from(bytes);
  for (let left = 1 + random.below(3); left > 0; left--) {
    const { numbers } = thriftMarks(result, 0);
    if (numbers.length === 0) return damageBytes(random, result);
    const { at, end, value } = pick(random, numbers);
    const odd = pick(random, [
      0,
      1,
      -1,
      2,
      value + 1,
      value - 1,
      value * 2,
      2 ** 16,
      2 ** 31 - 1,
      2 ** 31,
      1e12,
      2 ** 53,
    ]);
    const changed = random.below(3) === 0 ? varintOfLength(random, end - at) : varint(BigInt(odd));
    result = Buffer.concat([result.subarray(0, at), changed, result.subarray(end)]);
  }
  return result;
}

/** Zigzag. */
function varint(value) {
  let rest = BigInt.asUintN(64, (value << 1n) ^ (value >> 63n));
  const bytes = [];
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return Buffer.from([...bytes, Number(rest)]);
}

function varintOfLength(random, length) {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = random.below(128) | (i < length - 1 ? 128 : 0);
  return bytes;
}

/** Where the numbers and lengths of a struct in Thrift's compact protocol stand; stops quietly at what is none. */
function thriftMarks(bytes, start) {
  const numbers = [];
  let at = start;
  const number = (field) => {
    const from = at;
    let raw = 0n;
    for (let shift = 0n; at < bytes.length && at - from < 10; shift += 7n) {
      raw |= BigInt(bytes[at] & 127) << shift;
      if (bytes[at++] < 128) break;
    }
    numbers.push({ at: from, end: at, field, value: Number((raw >> 1n) ^ -(raw & 1n)) });
    return Number(raw);
  };
  const value = (type, field, depth) => {
    if (type === 3) at++;
    else if (type >= 4 && type <= 6) number(field);
    else if (type === 7) at += 8;
    else if (type === 8) at += number(null);
    else if (type === 9 || type === 10) {
      const head = bytes[at++];
      const size = head >> 4 === 15 ? number(null) : head >> 4;
      for (let i = 0; i < Math.min(size, bytes.length) && at < bytes.length; i++) value(head & 15, null, depth + 1);
    } else if (type === 12) struct(depth + 1);
  };
  const struct = (depth) => {
    for (let field = 0; at < bytes.length && depth < 20; ) {
      const head = bytes[at++];
      if (head === 0) return;
      field = head >> 4 ? field + (head >> 4) : number(null);
      value(head & 15, depth === 0 ? field : null, depth);
    }
  };
  struct(0);
  return { numbers, end: at };
}
