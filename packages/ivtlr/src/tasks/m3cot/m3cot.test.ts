import { expect, test } from 'vitest';
import { UserError } from '../../errors.ts';
import { dominoes } from '../dominoes/dominoes.ts';
import { m3cot } from './m3cot.ts';

const image = { bytes: new Uint8Array([1]), path: null };
const row = { image, question: 'which?', choices: ['red', 'blue'], answer: 'B' };

test('a row with nothing but a question becomes a sample', () => {
  const bare = { id: null, rationale: null, domain: null, topic: null, ...row };
  expect(m3cot.rowToSample(bare, 'f row 3', 3)).toMatchObject({
    ...{ id: 'row-3', rationale: '', answer: 'B', choices: ['red', 'blue'], meta: { domain: '', topic: '' } },
  });
  expect(m3cot.rowToSample({ ...bare, id: 'own' }, 'f row 3', 3)!.id).toBe('own');
  expect(m3cot.rowToSample({ ...bare, image: null }, 'f row 3', 3)).toBeNull();
});

test.each(['Z', 'C', 'b', '(B)', 'blue', '', 'AB', ' A'])('the answer %j names no choice', (answer) => {
  const message = `f row 3, column answer: should be the letter of a choice, A to B, but is ${JSON.stringify(answer)}`;
  for (const task of [m3cot, dominoes]) {
    expect(() => task.rowToSample({ ...row, answer }, 'f row 3', 3)).toThrow(new UserError(message));
  }
});

test('an open question may be answered by any letter', () => {
  expect(m3cot.rowToSample({ ...row, choices: [], answer: 'Q' }, 'f', 0)!.answer).toBe('Q');
  expect(() => m3cot.rowToSample({ ...row, choices: null, answer: '[' }, 'f', 0)).toThrow(/A to Z, but is "\["/);
});

test('only as many choices as there are letters', () => {
  const choices = (count: number) => Array.from({ length: count }, (_, i) => `choice ${i}`);
  expect(m3cot.rowToSample({ ...row, choices: choices(26), answer: 'Z' }, 'f', 0)!.answer).toBe('Z');
  expect(() => m3cot.rowToSample({ ...row, choices: choices(27) }, 'f row 1', 1)).toThrow(
    'f row 1, column choices: 27 choices, but only 26 have a letter, A to Z',
  );
});

test('an empty question is rendered like any other, as the official code does', () => {
  expect(m3cot.rowToSample({ ...row, question: ' ' }, 'f row 1', 1)!.question).toBe(' ');
});
