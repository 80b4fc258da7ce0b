import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { splitSteps } from '../../data/render.ts';
import { UserError } from '../../errors.ts';
import { readSamples } from '../read-samples.ts';
import { scienceqa, scienceqaRationale } from './scienceqa.ts';

/** Columns of ScienceQA's files, in their order. */
const SCIENCEQA_COLUMNS = [
  'image',
  'question',
  'choices',
  'answer',
  'hint',
  'task',
  'grade',
  'subject',
  'topic',
  'category',
  'skill',
  'lecture',
  'solution',
];

const row = {
  image: { bytes: new Uint8Array([1]), path: 'image.png' },
  question: ' Which is it? ',
  choices: ['oak', 'ash'],
  answer: 1,
  hint: 'Look.',
  grade: 'grade4',
  subject: 'natural science',
  topic: 'biology',
  category: 'Plants',
  skill: 'Tell trees apart',
  lecture: 'Trees differ.\nLook at leaves.',
  solution: 'The leaves are ash leaves.',
};
const sample = (change: Record<string, unknown> = {}) => scienceqa.rowToSample({ ...row, ...change }, 'f row 3', 3);

test('a row becomes a sample', () => {
  expect(sample()).toEqual({
    id: 'scienceqa-3',
    images: [{ kind: 'encoded', bytes: new Uint8Array([1]), name: 'image.png (f row 3)' }],
    question: ' Which is it? ',
    choices: ['oak', 'ash'],
    rationale: 'Trees differ.\nLook at leaves. The leaves are ash leaves.',
    answer: '1',
    meta: {
      subject: 'natural science',
      grade: 'grade4',
      topic: 'biology',
      category: 'Plants',
      skill: 'Tell trees apart',
      hasHint: 'yes',
    },
  });
  expect(sample({ answer: 0n })!.answer).toBe('0');
  const { columns, trainingColumns, optionalColumns } = scienceqa;
  expect([...columns, ...trainingColumns, ...optionalColumns].sort()).toEqual(
    SCIENCEQA_COLUMNS.filter((name) => name !== 'task').sort(),
  );
});

test('rows without an image are none', () => {
  expect(sample({ image: null })).toBeNull();
});

test('the rationale: lecture and solution, one of them, or the answer', () => {
  expect(scienceqaRationale(' a ', '\nb\n', '2')).toBe('a b');
  expect(scienceqaRationale(' a ', '', '2')).toBe('a');
  expect(scienceqaRationale('', ' b', '2')).toBe('b');
  expect(scienceqaRationale('', '', '2')).toBe('2');
  expect(scienceqaRationale('  ', 'b', '2')).toBe('b');
  expect(splitSteps(scienceqaRationale(' ', '', '2'))).toEqual([]);
  expect(sample({ lecture: null, solution: null })!.rationale).toBe('1');
});

test('what is wrong is named', () => {
  expect(() => sample({ answer: 'B' })).toThrow(
    new UserError('f row 3, column answer: should be a whole number, but holds string'),
  );
  expect(() => sample({ answer: 2 })).toThrow(/column answer: 2 names none of the 2 choices/);
  expect(() => sample({ answer: -1 })).toThrow(/column answer: -1/);
  expect(() => sample({ answer: null })).toThrow(/holds nothing/);
  expect(() => sample({ question: null })).toThrow(/column question/);
  expect(sample({ choices: null, answer: 7 })!.answer).toBe('7');
});

test('both scorers', () => {
  const score = (generated: string) => scienceqa.score(sample()!, { prompt: 'the answer is 0', generated });
  expect(score('Therefore, the answer is 1')).toEqual({ official: true, strict: true, predicted: '1' });
  expect(score('Therefore, the answer is 0')).toEqual({ official: false, strict: false, predicted: '0' });
  expect(score('the answer is B')).toEqual({ official: true, strict: false, predicted: null });
  expect(score('the answer is 1. No: the answer is 0.')).toMatchObject({ official: true, strict: false });
  expect(score('who knows')).toEqual({ official: false, strict: false, predicted: null });
});

test('groups of a report', () => {
  expect(scienceqa.groups(sample()!)).toEqual({ subject: 'natural science', grade: 'grade4', hint: 'with hint' });
  expect(scienceqa.groups(sample({ hint: ' ' })!).hint).toBe('without hint');
});

test('a file of another writer (data/goldens/make_parquet.py): int8 answers, rows without an image', async () => {
  const path = fileURLToPath(new URL('../../data/goldens/scienceqa-zstd.parquet', import.meta.url));
  const samples = await readSamples(path, scienceqa);
  expect(samples.map(({ id, rowIndex, answer }) => [id, rowIndex, answer])).toEqual(
    [0, 2, 3, 5].map((i) => [`scienceqa-${i}`, i, String(i % 2)]),
  );
  expect(samples.map(({ rationale }) => rationale)).toEqual([
    '0',
    'Solved.',
    'A lecture. It is long.',
    'A lecture. It is long. Solved.',
  ]);
  expect(samples.map(({ meta }) => meta.hasHint)).toEqual(['no', 'yes', 'no', 'no']);
  expect(samples[3]!.question).toBe('Größe 5?');
  expect(samples[3]!.choices).toEqual(['x', 'y', 'z']);
});
