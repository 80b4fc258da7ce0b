import { expect, it } from 'vitest';
import { changed, formatPlace, numberIn, parsePlace } from './place.ts';
import { formatTokensPerStep, parseTokensPerStep, withToken } from './tokens-per-step.ts';

it('reads pages and parameters, and writes them back', () => {
  const place = parsePlace('#/what-if?seed=7&vary=zero-latents&c=red&c=blue%3F');
  expect(place.page).toBe('what-if');
  expect(place.params.getAll('c')).toEqual(['red', 'blue?']);
  expect(parsePlace(formatPlace(place))).toEqual(place);
});

it('takes anything unknown for the first page', () => {
  for (const hash of ['', '#', '#/', '#/nowhere', '#main']) expect(parsePlace(hash).page).toBe('ask');
});

it('changes some parameters and leaves the others', () => {
  const next = changed(new URLSearchParams('a=1&b=2&c=3&c=4'), { a: null, b: '', c: ['5', '6'], d: 7 });
  expect(next.toString()).toBe('b=&c=5&c=6&d=7');
  expect(changed(next, { c: [] }).has('c')).toBe(false);
});

it('reads whole numbers only', () => {
  const params = new URLSearchParams('a=12&b=-1&c=1.5&d=x&e=9999999999');
  expect(['a', 'b', 'c', 'd', 'e', 'f'].map((name) => numberIn(params, name))).toEqual([
    12,
    null,
    null,
    null,
    null,
    null,
  ]);
});

it('keeps tokens of steps in one parameter', () => {
  expect(parseTokensPerStep('0:5,6;2:1')).toEqual([[5, 6], [], [1]]);
  expect(parseTokensPerStep(null)).toEqual([]);
  expect(parseTokensPerStep('x;1:;9999:1;1:3,3')).toEqual([[], [3]]);
  expect(formatTokensPerStep([[5, 6], [], [1]])).toBe('0:5,6;2:1');
  const added = withToken([[5]], 1, 8, true);
  expect(added).toEqual([[5], [8]]);
  expect(withToken(added, 0, 5, false)).toEqual([[], [8]]);
});
