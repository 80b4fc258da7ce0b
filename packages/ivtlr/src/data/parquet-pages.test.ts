import { expect, test } from 'vitest';
import { checkPages, type PagedColumn } from './parquet-pages.ts';

/** Zigzag, as Thrift's compact protocol writes numbers. */
function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = (value << 1) ^ (value >> 31);
  for (rest >>>= 0; rest > 127; rest >>>= 7) bytes.push((rest & 127) | 128);
  return [...bytes, rest];
}

/** Fields 1, 2, 3 .. of 32 bits, a list being a struct of them; null leaves a field out. */
type Fields = (number | null | Fields)[];

function struct(fields: Fields): number[] {
  let last = 0;
  const bytes = fields.flatMap((value, i) => {
    if (value === null) return [];
    const head = ((i + 1 - last) << 4) | (typeof value === 'number' ? 5 : 12);
    last = i + 1;
    return [head, ...(typeof value === 'number' ? varint(value) : struct(value))];
  });
  return [...bytes, 0];
}

const [PLAIN, RLE, DICTIONARY] = [0, 3, 8];
const page = (content: number[], values: number, encoding = PLAIN, size = content.length) => [
  ...struct([0, size, content.length, null, [values, encoding, RLE, RLE]]),
  ...content,
];
const page2 = (content: number[], numbers: number[]) => [
  ...struct([3, content.length, content.length, null, null, null, null, numbers]),
  ...content,
];
const check = (bytes: number[], column: Partial<PagedColumn> = {}) =>
  checkPages(Uint8Array.from(bytes), {
    ...{ rows: 4, maxRepetition: 0, maxDefinition: 1, decompress: (input: Uint8Array) => input },
    ...column,
  });

/** Four values, the second of them null: a packed run, and the same as runs of equal levels. */
const packed = [2, 0, 0, 0, 3, 0b1101];
const runs = [6, 0, 0, 0, 2, 1, 2, 0, 4, 1];

test('good pages of either version, packed levels and runs, dictionary places, several pages, bytes behind the last', () => {
  check(page([...packed, 9, 9], 4));
  check(page([...runs, 9, 9], 4));
  // Three places of two bits, which is what is not null.
  check(page([...runs, 2, 6, 3], 4, DICTIONARY));
  check(page2([3, 0b1101, 2, 6, 3], [4, 1, 4, DICTIONARY, 2, 0]));
  check([...struct([2, 3, 3, null, null, null, [1, PLAIN]]), 1, 2, 3, ...page(runs, 4)]);
  check([...page(packed, 2), ...page(packed, 2), 255, 255, 255]);
  check(page([2, 0, 0, 0, 3, 0b0110, ...packed], 4), { maxRepetition: 1 });
});

const endless = [0xfe, 0xff, 0xff, 0xff, 0x0f];
test.each<[string, number[], RegExp, Partial<PagedColumn>?]>([
  ['more values than any row group has', page(packed, 2 ** 31 - 1), /^2147483647 values in a row group$/],
  [
    'many pages of many values',
    [...page([], 2 ** 24), ...page([], 2)],
    /^16777218 values/,
    { rows: 2 ** 25, maxDefinition: 0 },
  ],
  ['negative values', page(packed, -5), /makes no sense/],
  ['a level that goes on', page([7, 0, 0, 0, ...endless, 1], 4), /^a run of 2147483647 values where 4 are left$/],
  ['packed levels that go on', page([7, 0, 0, 0, 0xff, 0xff, 0xff, 0x0f], 4), /^a run of 134217720 values/],
  [
    'a place that goes on',
    page([...runs, 2, ...endless, 3], 4, DICTIONARY),
    /^a run of 2147483647 values where 3 are left$/,
  ],
  ['truth values that go on', page([1, 0, 0, 0, ...endless, 1], 4, RLE), /^a run of/, { maxDefinition: 0 }],
  ['a page beyond its column', page(packed, 4).slice(0, -1), /^a page of 6 bytes$/],
  ['a bomb', page(packed, 4, PLAIN, 2 ** 30), /^a page of 1073741824 bytes$/],
  ['more nulls than values', page2([3, 1], [4, 5, 4, PLAIN, 2, 0]), /^5 nulls/],
  ['levels beyond the page', page2([3, 1], [4, 0, 4, PLAIN, 200, 0]), /200 bytes of levels/],
  ['a level of version 2 that goes on', page2([...endless, 1], [4, 0, 4, PLAIN, 6, 0]), /^a run of/],
  ['no header of its kind', [...struct([0, 1, 1]), 1], /without a header/],
  ['a cut header', [0x15, 0x00, 0x15], /ends too early/],
  ['structs without end', new Array(5000).fill(0x1c), /makes no sense/],
  ['a number without end', [0x15, ...new Array(50).fill(0xff)], /more than 32 bits/],
])('%s', (_, bytes, message, column) => {
  expect(() => check(bytes, column)).toThrow(message);
});
