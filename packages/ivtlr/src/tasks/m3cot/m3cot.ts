/** M3CoT: multi-domain multiple-choice questions with images and written rationales (hub id LightChen2333/M3CoT). */
import { imageField, type Row, textField, textListField } from '../../data/row.ts';
import type { Sample } from '../../data/sample.ts';
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

/** A row of M3CoT's schema as a sample, null without image. `context` is no part of the official prompts and stays out. */
export function m3cotSample(row: Row, place: string): Sample | null {
  const image = imageField(row, 'image', place);
  if (!image) return null;
  return {
    id: textField(row, 'id', place),
    image,
    question: textField(row, 'question', place),
    choices: textListField(row, 'choices', place),
    rationale: textField(row, 'rationale', place, ''),
    answer: textField(row, 'answer', place),
    meta: {
      domain: textField(row, 'domain', place, ''),
      topic: textField(row, 'topic', place, ''),
    },
  };
}

export const m3cot: Task = {
  name: 'm3cot',
  columns: ['id', 'question', 'choices', 'answer', 'rationale', 'image', 'domain', 'topic'],
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
