import { expect, it } from 'vitest';
import { markWords, onlyIn, pickSummary } from './differences.ts';

const changedWords = (text: string, other: string) =>
  markWords(text, other)
    .filter(({ changed }) => changed)
    .map(({ text }) => text);

it('marks the words that the other text does not have there', () => {
  expect(changedWords('cyan is B; the answer is B', 'orange is C; the answer is C')).toEqual(['cyan', 'B;', 'B']);
  expect(changedWords('the answer', 'so the long answer')).toEqual([]);
  expect(changedWords('a b a', '')).toEqual(['a', 'b', 'a']);
  expect(changedWords('', 'a')).toEqual([]);
});

it('loses nothing of the text', () => {
  const text = '  two\n lines,  spaced ';
  expect(
    markWords(text, 'two words')
      .map((part) => part.text)
      .join(''),
  ).toBe(text);
});

it('finds picks that the other does not have', () => {
  expect(onlyIn([3, 1, 2], [2, 4])).toEqual([3, 1]);
});

it.each([
  ['the same, in whatever order', [[1, 2], [3]], [[2, 1], [3]], 'The same patches picked.'],
  ['others', [[1], [4], [5]], [[1], [3], [6]], 'Other patches picked in steps 2, 3.'],
  ['fewer', [[1], [3]], [[1, 2], [3]], 'Other patches picked in step 1.'],
  ['none in one step', [[1], []], [[1], [3]], 'Other patches picked in step 2.'],
  ['none at all', [[], []], [[1], [3]], 'No patches picked.'],
  ['against none', [[1]], [], 'The answer as trained has no latent steps.'],
])('says what was picked: %s', (_, mine, base, words) => {
  const steps = (picks: number[][]) => picks.map((picked) => ({ picked }));
  expect(pickSummary(steps(mine), steps(base))).toBe(words);
});
