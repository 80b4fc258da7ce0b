import fc from 'fast-check';
import { expect, it } from 'vitest';
import { EventReader } from './events.ts';

function readAll(pieces: readonly string[]): string[] {
  const reader = new EventReader();
  return pieces.flatMap((piece) => reader.push(piece));
}

it('gives the data of whole events and leaves out comments, names and numbers', () => {
  const stream = ': hello\nevent: x\nid: 3\ndata: one\n\ndata:two\ndata:  lines\n\n\ndata\n\ndata: unfinished';
  expect(readAll([stream])).toEqual(['one', 'two\n lines', '']);
});

it('takes every kind of line end', () => {
  expect(readAll(['data: a\r\n\r\ndata: b\r\rdata: c\n\n'])).toEqual(['a', 'b', 'c']);
});

it('gives the same events however the stream is cut', () => {
  const lines = fc.constantFrom('data: {"a":1}', 'data:x', ': comment', '', 'retry: 3', 'data', 'datax: no');
  const stream = fc.array(fc.tuple(lines, fc.constantFrom('\n', '\r\n', '\r')), { maxLength: 12 });
  fc.assert(
    fc.property(stream, fc.array(fc.nat(200), { maxLength: 6 }), (parts, cuts) => {
      const text = parts.map(([line, end]) => line + end).join('');
      const places = [0, ...cuts.map((cut) => cut % (text.length + 1)).sort((a, b) => a - b), text.length];
      const pieces = places.slice(1).map((place, index) => text.slice(places[index], place));
      expect(readAll(pieces)).toEqual(readAll([text]));
    }),
  );
});
