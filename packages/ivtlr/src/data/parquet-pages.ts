/**
 * The pages of a Parquet column, checked before the library decodes them. It believes what a page says of itself, so that a few bytes could make
 * it loop, or fill the memory, for a thousand million values that are not there.
 * Format: github.com/apache/parquet-format (README.md, Encodings.md) and Thrift's compact protocol.
 */

/** Of one column in one row group; text data sets have a million. */
const MAX_VALUES = 2 ** 24;
const MAX_PAGE_BYTES = 2 ** 29;
/** The last run of a page may be padded, by some writers to a block. */
const PADDING = 512;

const DATA_PAGE = 0;
const DICTIONARY_PAGE = 2;
const DATA_PAGE_V2 = 3;
const PLAIN_DICTIONARY = 2;
const RLE = 3;
const RLE_DICTIONARY = 8;

export interface PagedColumn {
  /** Of the row group. */
  rows: number;
  /** How deep lists are nested at the values, and how many levels there may be null. */
  maxRepetition: number;
  maxDefinition: number;
  /** The content of a page. */
  decompress(input: Uint8Array, length: number): Uint8Array;
}

/** @throws Error saying what a page claims that cannot be */
export function checkPages(chunk: Uint8Array, column: PagedColumn): void {
  let values = 0;
  // The library, too, stops where a column without lists has all its rows.
  for (let at = 0; at < chunk.length - 1 && (column.maxRepetition > 0 || values < column.rows); ) {
    const reader = new Thrift(chunk, at);
    const header = reader.struct();
    const [type, length, packed] = [1, 2, 3].map((field) => count(header, field));
    const start = reader.at;
    at = start + packed!;
    if (at > chunk.length || length! > MAX_PAGE_BYTES) throw new Error(`a page of ${Math.max(packed!, length!)} bytes`);
    if (type !== DATA_PAGE && type !== DATA_PAGE_V2 && type !== DICTIONARY_PAGE) continue;
    const inner = header.get({ [DATA_PAGE]: 5, [DATA_PAGE_V2]: 8, [DICTIONARY_PAGE]: 7 }[type]!);
    if (!(inner instanceof Map)) throw new Error('a page without a header of its kind');
    const size = count(inner, 1);
    if (type !== DICTIONARY_PAGE) values += size;
    if (size > MAX_VALUES || values > MAX_VALUES) throw new Error(`${Math.max(size, values)} values in a row group`);
    const page = chunk.subarray(start, at);
    if (type === DATA_PAGE) checkVersion1(column.decompress(page, length!), size, count(inner, 2), column);
    if (type === DATA_PAGE_V2) checkVersion2(page, inner, length!, column);
  }
}

function checkVersion1(page: Uint8Array, size: number, encoding: number, column: PagedColumn): void {
  let at = 0;
  let filled = size;
  for (const most of [column.maxRepetition, column.maxDefinition]) {
    if (most === 0) continue;
    const end = at + 4 + uint32(page, at);
    filled = countLevel(page.subarray(at + 4), size, most);
    at = end;
  }
  checkIndices(page.subarray(at), column.maxDefinition === 0 ? size : filled, encoding);
}

/** Its levels stand before the compressed values, without lengths of their own. */
function checkVersion2(page: Uint8Array, header: Fields, length: number, column: PagedColumn): void {
  const [size, nulls, , encoding, definitionBytes, repetitionBytes] = [1, 2, 3, 4, 5, 6].map((f) => count(header, f));
  const levels = definitionBytes! + repetitionBytes!;
  if (nulls! > size! || levels > length) throw new Error(`${nulls} nulls and ${levels} bytes of levels in a page`);
  if (column.maxRepetition > 0) countLevel(page, size!, column.maxRepetition);
  if (column.maxDefinition > 0) countLevel(page.subarray(repetitionBytes!), size!, column.maxDefinition);
  const rest = page.subarray(levels);
  const values = header.get(7) === false ? rest : column.decompress(rest, length - levels);
  checkIndices(values, size! - nulls!, encoding!);
}

/** Values that are places in a dictionary, or runs of booleans. */
function checkIndices(bytes: Uint8Array, size: number, encoding: number): void {
  if (encoding === RLE) walkRuns(bytes.subarray(4), 1, size);
  else if (encoding === PLAIN_DICTIONARY || encoding === RLE_DICTIONARY) {
    const width = bytes[0] ?? 0;
    if (width > 0) walkRuns(bytes.subarray(1), width, size);
  }
}

/** How many of `size` levels are the highest one. */
function countLevel(bytes: Uint8Array, size: number, most: number): number {
  const width = 32 - Math.clz32(most);
  let found = 0;
  walkRuns(bytes, width, size, (value, times) => {
    if (value === most) found += times;
  });
  return found;
}

/** Goes through the hybrid of run lengths and packed bits until `size` values are found. */
function walkRuns(bytes: Uint8Array, width: number, size: number, see?: (value: number, times: number) => void): void {
  const reader = new Thrift(bytes, 0);
  for (let seen = 0; seen < size; ) {
    const header = reader.varint();
    const run = header & 1 ? (header >>> 1) * 8 : header >>> 1;
    if (run > size - seen + PADDING) throw new Error(`a run of ${run} values where ${size - seen} are left`);
    const wanted = Math.min(run, size - seen);
    if (header & 1) {
      if (see) for (let i = 0; i < wanted; i++) see(bitsAt(bytes, reader.at * 8 + i * width, width), 1);
      reader.at += (run / 8) * width;
    } else {
      see?.(bitsAt(bytes, reader.at * 8, width), wanted);
      reader.at += (width + 7) >> 3;
    }
    seen += run;
  }
}

/** Levels are a few bits wide, so that two bytes hold one. */
function bitsAt(bytes: Uint8Array, bit: number, width: number): number {
  const at = bit >> 3;
  return (((bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8)) >> (bit & 7)) & ((1 << width) - 1);
}

function uint32(bytes: Uint8Array, at: number): number {
  if (at + 4 > bytes.length) throw new Error('a page that ends inside its levels');
  return new DataView(bytes.buffer, bytes.byteOffset + at, 4).getUint32(0, true);
}

/** Number of the field -> its value, as far as page headers need it. */
type Fields = Map<number, unknown>;

function count(fields: Fields, field: number): number {
  const value = fields.get(field);
  if (typeof value !== 'number' || value < 0) throw new Error('a page header that makes no sense');
  return value;
}

class Thrift {
  at: number;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  struct(depth = 0): Fields {
    const fields: Fields = new Map();
    for (let field = 0; ; ) {
      const head = this.#byte();
      if ((head & 15) === 0) return fields;
      field = head >> 4 ? field + (head >> 4) : this.#zigzag();
      fields.set(field, this.#value(head & 15, depth));
    }
  }

  /** Unsigned, at most 32 bits. */
  varint(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.#byte();
      value |= (byte & 127) << shift;
      if (byte < 128) return value >>> 0;
    }
    throw new Error('a number of more than 32 bits');
  }

  #value(type: number, depth: number): unknown {
    if (type === 1 || type === 2) return type === 1;
    if (type === 3) return this.#byte();
    if (type === 4 || type === 5) return this.#zigzag();
    // 64 bits: only statistics have them, which nobody reads here.
    if (type === 6) {
      while (this.#byte() > 127);
      return null;
    }
    if (type === 12 && depth < 8) return this.struct(depth + 1);
    if (type !== 7 && type !== 8) throw new Error('a page header that makes no sense');
    const length = type === 7 ? 8 : this.varint();
    this.at += length;
    return null;
  }

  #zigzag(): number {
    const value = this.varint();
    return (value >>> 1) ^ -(value & 1);
  }

  #byte(): number {
    const byte = this.#bytes[this.at++];
    if (byte === undefined) throw new Error('a page that ends too early');
    return byte;
  }
}
