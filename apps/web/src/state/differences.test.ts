import { expect, it } from 'vitest';
import { markWords, onlyIn } from './differences.ts';

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
