/** A file of questions, one JSON object a line. */
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { UserError } from '../errors.ts';
import { readText } from '../files.ts';
import { MAX_CHOICES } from '../text/prompt.ts';

const questionSchema = z.strictObject({
  id: z.union([z.string(), z.number()]).optional(),
  /** Absolute, or from the folder of the file of questions. */
  image: z.string().min(1),
  question: z.string(),
  choices: z.array(z.string()).max(MAX_CHOICES).optional(),
});

export interface QuestionLine {
  /** From 1. */
  line: number;
  /** File and line, for messages. */
  place: string;
  id: string | number | null;
  /** As the line has it. */
  image: string;
  imagePath: string;
  question: string;
  choices: string[];
}

/** Empty lines are passed over. @throws UserError naming the first line that is wrong, and how */
export function readQuestionLines(file: string): QuestionLine[] {
  const lines = readText(file, 'file of questions')
    .replace(/^\ufeff/, '')
    .split('\n');
  const questions = lines.flatMap((text, at) => (text.trim() === '' ? [] : [readLine(file, text, at + 1)]));
  if (questions.length === 0)
    throw new UserError(
      `${file} has no questions; each is a line such as {"image": "a.png", "question": "What is it?"}`,
    );
  return questions;
}

function readLine(file: string, text: string, line: number): QuestionLine {
  const place = `${file}, line ${line}`;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${place} is not JSON: ${(error as Error).message}`);
  }
  const parsed = questionSchema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const where = issue!.path.length > 0 ? ` ${issue!.path.join('.')}` : '';
    throw new UserError(
      `${place}:${where} ${issue!.message}; a line has image, question, and if need be id and choices`,
    );
  }
  const { id = null, image, question, choices = [] } = parsed.data;
  if (image.includes('\0')) throw new UserError(`${place}: image holds a NUL character`);
  return { line, place, id, image, imagePath: resolve(dirname(file), image), question, choices };
}
