import { describe, expect, test } from 'vitest';
import { officialM3cot, officialScienceqa, scoreLetters, strictAnswer } from './scorers.ts';

const answered = (generated: string, prompt = 'Q\nAnswer:\n') => ({ prompt, generated });

describe('official, M3CoT', () => {
  test('a letter after "the answer is" or "Answer:", upper or lower case', () => {
    expect(officialM3cot('B', answered('Therefore, the answer is B'))).toBe(true);
    expect(officialM3cot('B', answered('so THE ANSWER  IS\n\n b'))).toBe(true);
    expect(officialM3cot(' b ', answered('x answer: B'))).toBe(true);
    expect(officialM3cot('C', answered('Therefore, the answer is B'))).toBe(false);
    expect(officialM3cot('B', answered('Therefore, the answer is (B)'))).toBe(false);
  });

  test('its kindness: several answers, first letters of words, and the prompt count', () => {
    expect(officialM3cot('C', answered('the answer is B. Or the answer is C'))).toBe(true);
    expect(officialM3cot('T', answered('the answer is Therefore'))).toBe(true);
    expect(officialM3cot('P', answered('pink is A'))).toBe(true);
    expect(officialM3cot('A', answered('pink', 'Answer: A\n'))).toBe(true);
  });

  test('its harshness: the prompt\'s "Answer:" swallows the first letter of the output', () => {
    expect(officialM3cot('B', answered('the answer is B'))).toBe(false);
    expect(officialM3cot('B', answered('the answer is B', 'Q'))).toBe(true);
  });

  test('the chat marker "assistant" does not count as A', () => {
    expect(officialM3cot('A', answered('no', 'Answer:\nassistant\n'))).toBe(false);
    expect(officialM3cot('A', answered('no', 'Answer:\n\nassistant\n'))).toBe(false);
    expect(officialM3cot('N', answered('no', 'Answer:\n\nassistant\n'))).toBe(true);
    expect(officialM3cot('A', answered('no', 'Answer:\nassistants\n'))).toBe(true);
  });
});

test('official, ScienceQA: digits before letters, strict wording before loose', () => {
  expect(officialScienceqa('Therefore, the answer is 2')).toBe(2);
  expect(officialScienceqa('the answer is 1. Therefore the answer is 3')).toBe(3);
  expect(officialScienceqa('the answer is C and answer is:0')).toBe(0);
  expect(officialScienceqa('so the answer is c')).toBe(2);
  expect(officialScienceqa('answer is: 4')).toBe(4);
  expect(officialScienceqa('nothing')).toBe(-1);
});

describe('strict', () => {
  const gold = { answer: 'B', choices: ['w', 'x', 'y', 'z'] };

  test('one offered letter that stands alone', () => {
    for (const text of ['Therefore, the answer is B', 'the answer is B.', 'Answer is (B)', 'The answer is: B\nmore']) {
      expect(strictAnswer(text, gold)).toBe('B');
    }
    for (const text of ['', 'B', 'the answer is b', 'the answer is Big', 'the answer is B or C', 'the answer is 1']) {
      expect(strictAnswer(text, gold)).toBeNull();
    }
  });

  test('two different answers are none, the same twice is one', () => {
    expect(strictAnswer('the answer is B. the answer is C.', gold)).toBeNull();
    expect(strictAnswer('the answer is C. the answer is C', gold)).toBe('C');
  });

  test('a letter that was not offered is none', () => {
    expect(strictAnswer('the answer is E', gold)).toBeNull();
    expect(strictAnswer('the answer is E', { ...gold, choices: [] })).toBe('E');
  });

  test('numbers where the data set counts', () => {
    const counted = { answer: '1', choices: ['x', 'y'] };
    expect(strictAnswer('Therefore, the answer is 1', counted)).toBe('1');
    expect(strictAnswer('Therefore, the answer is 2', counted)).toBeNull();
    expect(strictAnswer('Therefore, the answer is B', counted)).toBeNull();
  });
});

test('both verdicts side by side', () => {
  const gold = { answer: 'B', choices: ['w', 'x'] };
  expect(scoreLetters(gold, answered('Therefore, the answer is B'))).toEqual({
    official: true,
    strict: true,
    predicted: 'B',
  });
  expect(scoreLetters(gold, answered('the answer is A. the answer is B.'))).toEqual({
    official: true,
    strict: false,
    predicted: null,
  });
  expect(scoreLetters(gold, answered('the answer is A', ''))).toEqual({
    official: false,
    strict: false,
    predicted: 'A',
  });
});
