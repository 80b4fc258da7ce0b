import { expect, test } from 'vitest';
import { columnsFromMessages } from './messages.ts';

const row = (user: string, assistant: string, more: object = {}) => ({
  messages: [
    { role: 'user', content: user },
    { role: 'assistant', content: assistant },
  ],
  images: ['a.jpg'],
  ...more,
});
const read = (value: Record<string, unknown>) => {
  const { question, choices, answer, rationale, image, images } = columnsFromMessages(value, 'f line 3');
  return { question, choices, answer, rationale, image: image ?? (images as unknown[] | null)?.[0] ?? null };
};

test('question, lettered choices, reasoning and answer', () => {
  const asked = '<image>Which one is larger?\nA. the cat\nB. the dog';
  expect(read(row(asked, 'Look at both. The dog is taller. Therefore, the answer is B'))).toEqual({
    question: 'Which one is larger?',
    choices: ['the cat', 'the dog'],
    answer: 'B',
    rationale: 'Look at both. The dog is taller.',
    image: 'a.jpg',
  });
  for (const [list, answer] of [
    ['(A) red\n(B) blue', 'B'],
    ['A) red\nB) blue', 'Answer: (B).'],
    ['A: red\n\n B: blue ', 'The answer is B.'],
  ] as const) {
    expect(read(row(`<image>\nWhich?\n${list}`, answer)), list).toMatchObject({
      question: 'Which?',
      choices: ['red', 'blue'],
      answer: 'B',
      rationale: '',
    });
  }
});

test('a lettered sentence alone is no choice, a number is an answer, images may be objects or missing', () => {
  expect(read(row('A. Smith drew this. What is it?', 'The answer is 2', { images: [{ path: 'b.png' }] }))).toEqual({
    question: 'A. Smith drew this. What is it?',
    choices: [],
    answer: 2,
    rationale: '',
    image: { path: 'b.png' },
  });
  expect(read(row('q', 'A', { images: [] })).image).toBeNull();
  expect(read(row('q', 'A', { images: undefined })).image).toBeNull();
});

test('columns beside the messages win, and what the system says is left out', () => {
  const value = row('<image>Which?', 'The dog is.', { choices: ['cat', 'dog'], answer: 'B', id: '7' });
  value.messages.unshift({ role: 'system', content: 'Be brief.' });
  expect(columnsFromMessages(value, 'p')).toMatchObject({
    id: '7',
    question: 'Which?',
    choices: ['cat', 'dog'],
    answer: 'B',
    rationale: 'The dog is.',
  });
});

test('what is no question with an answer is refused with its place', () => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [row('q', 'It is red.'), /^f line 3, column messages: the assistant's text names no answer/],
    [{ messages: [] }, /one message of the user and one of the assistant are wanted, not 0 and 0/],
    [{ messages: [...row('q', 'A').messages, ...row('q', 'A').messages] }, /not 2 and 2/],
    [{ messages: [null] }, /each should be/],
    [{ messages: [{ role: 'user', content: [{ type: 'text' }] }] }, /each should be/],
    [{ messages: [{ role: 'tool', content: '' }] }, /the role "tool" is not known/],
  ];
  for (const [value, message] of cases) expect(() => columnsFromMessages(value, 'f line 3')).toThrow(message);
});

test('long texts are read at once, whatever stands in them', () => {
  const spaces = ' '.repeat(300_000);
  const long = `${'x'.repeat(300_000)}.${spaces}`;
  expect(
    read(row(`<image>Which?\nA. one${spaces}\u00a0two\nB. three`, `${long}The answer is B.${spaces}`)),
  ).toMatchObject({
    choices: [`one${spaces}\u00a0two`, 'three'],
    answer: 'B',
    rationale: `${'x'.repeat(300_000)}.`,
  });
});
