import { expect, test } from 'vitest';
import { summarizeLengths, Tally } from './lengths.ts';

test('percentiles by nearest rank', () => {
  expect(summarizeLengths([])).toBeNull();
  expect(summarizeLengths([7])).toEqual({ count: 1, min: 7, p50: 7, p90: 7, p99: 7, max: 7, mean: 7 });
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  expect(summarizeLengths(hundred)).toEqual({ count: 100, min: 1, p50: 50, p90: 90, p99: 99, max: 100, mean: 50.5 });
  expect(summarizeLengths([10, 9, 100])).toMatchObject({ min: 9, p50: 10, p90: 100 });
});

test('counts, most frequent first', () => {
  const tally = new Tally();
  for (const value of ['b', 'a', 'c', 'c']) tally.add(value);
  expect(tally.entries()).toEqual([
    ['c', 2],
    ['a', 1],
    ['b', 1],
  ]);
  const numbers = new Tally();
  for (const value of ['10', '9', '10', '2']) numbers.add(value);
  expect(numbers.entries().map(([value]) => value)).toEqual(['2', '9', '10']);
});
