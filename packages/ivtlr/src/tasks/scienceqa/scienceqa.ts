/** ScienceQA: school questions with lectures and solutions; about half have an image (hub id derek-thomas/ScienceQA). */
import { choicesField, imagesOfRow, integerField, type Row, textField } from '../../data/row.ts';
import type { Sample } from '../../data/sample.ts';
import { UserError } from '../../errors.ts';
import { stripText } from '../../text/prompt.ts';
import { officialScienceqa, strictAnswer } from '../scorers.ts';
import type { Task } from '../task.ts';

/**
 * Lecture and solution, or the one there is, or the answer itself: what the official code takes as rationale. A lecture of white space alone
 * counts as one, which then gives no step.
 */
export function scienceqaRationale(lecture: string, solution: string, answer: string): string {
  if (lecture !== '' && solution !== '') return stripText(`${stripText(lecture)} ${stripText(solution)}`);
  return stripText(lecture || solution || answer);
}

/** A row as a sample, null without image. The answer is the index of the choice, from 0; `hint` is no part of the official prompts. */
export function scienceqaSample(row: Row, place: string, index: number): Sample | null {
  const images = imagesOfRow(row, place);
  if (!images) return null;
  const choices = choicesField(row, 'choices', place);
  const right = integerField(row, 'answer', place);
  if (right < 0 || (choices.length > 0 && right >= choices.length)) {
    throw new UserError(
      `${place}, column answer: ${right} names none of the ${choices.length} choices, which count from 0`,
    );
  }
  const answer = String(right);
  const optional = (column: string) => textField(row, column, place, '');
  return {
    id: `scienceqa-${index}`,
    images,
    question: textField(row, 'question', place),
    choices,
    rationale: scienceqaRationale(optional('lecture'), optional('solution'), answer),
    answer,
    meta: {
      subject: optional('subject'),
      grade: optional('grade'),
      topic: optional('topic'),
      category: optional('category'),
      skill: optional('skill'),
      hasHint: stripText(optional('hint')) === '' ? 'no' : 'yes',
    },
  };
}

export const scienceqa: Task = {
  name: 'scienceqa',
  columns: ['image', 'question', 'choices', 'answer'],
  trainingColumns: ['lecture', 'solution'],
  optionalColumns: ['hint', 'grade', 'subject', 'topic', 'category', 'skill'],
  rowToSample: scienceqaSample,
  score({ answer, choices }, { generated }) {
    const predicted = strictAnswer(generated, { answer, choices });
    return { official: officialScienceqa(generated) === Number(answer), strict: predicted === answer, predicted };
  },
  groups: ({ meta }) => ({
    subject: meta.subject ?? '',
    grade: meta.grade ?? '',
    hint: meta.hasHint === 'yes' ? 'with hint' : 'without hint',
  }),
  officialPredictions(predictions) {
    const results = predictions.map(({ index, answered }) => [String(index), officialScienceqa(answered.generated)]);
    return `${JSON.stringify({ results: Object.fromEntries(results) }, null, 2)}\n`;
  },
};
