/** M3CoT: multi-domain multiple-choice questions with images and written rationales (hub id LightChen2333/M3CoT). */
import { choicesField, imagesOfRow, type Row, shorten, textField } from '../../data/row.ts';
import type { Sample } from '../../data/sample.ts';
import { UserError } from '../../errors.ts';
import { choiceLetter } from '../../text/prompt.ts';
import { scoreLetters } from '../scorers.ts';
import type { Task } from '../task.ts';

/** Columns of M3CoT's files, in their order. */
export const M3COT_COLUMNS = [
  'id',
  'category',
  'image_id',
  'question',
  'choices',
  'context',
  'answer',
  'rationale',
  'split',
  'image',
  'domain',
  'topic',
] as const;

/**
 * A row of M3CoT's schema as a sample, null without image. `context` is no part of the official prompts and stays out.
 * @throws UserError among others when the answer is not the letter of a choice
 */
export function m3cotSample(row: Row, place: string, index: number): Sample | null {
  const images = imagesOfRow(row, place);
  if (!images) return null;
  const choices = choicesField(row, 'choices', place);
  const answer = textField(row, 'answer', place);
  const letters = choices.length > 0 ? choices.map((_, at) => choiceLetter(at)) : [choiceLetter(0), choiceLetter(25)];
  const [first, last] = [letters[0]!, letters.at(-1)!];
  if (!/^[A-Z]$/.test(answer) || answer < first || answer > last) {
    throw new UserError(
      `${place}, column answer: should be the letter of a choice, ${first} to ${last}, but is ${JSON.stringify(shorten(answer))}`,
    );
  }
  return {
    id: textField(row, 'id', place, `row-${index}`),
    images,
    question: textField(row, 'question', place),
    choices,
    rationale: textField(row, 'rationale', place, ''),
    answer,
    meta: {
      domain: textField(row, 'domain', place, ''),
      topic: textField(row, 'topic', place, ''),
    },
  };
}

export const m3cot: Task = {
  name: 'm3cot',
  columns: ['question', 'choices', 'answer', 'image'],
  trainingColumns: ['rationale'],
  optionalColumns: ['id', 'domain', 'topic'],
  rowToSample: m3cotSample,
  score: scoreLetters,
  groups: ({ meta }) => ({ domain: meta.domain ?? '', topic: meta.topic ?? '' }),
  officialPredictions: (predictions) =>
    predictions
      .map(({ sample: { id, choices, answer, meta }, answered }) => {
        const messages = [answered.prompt, answered.generated];
        const line = { id, choices, answer, domain: meta.domain ?? '', topic: meta.topic ?? '', messages };
        return `${JSON.stringify(line)}\n`;
      })
      .join(''),
};
