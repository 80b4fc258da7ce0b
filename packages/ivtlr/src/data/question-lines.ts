/** A file of questions, one JSON object a line. */
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { UserError } from '../errors.ts';
import { readText } from '../files.ts';
import { MAX_CHOICES } from '../text/prompt.ts';

const questionSchema = z.strictObject({
  id: z.union([z.string(), z.number()]).optional(),
  /** Paths are absolute, or from the folder of the file of questions. */
  image: z.string().min(1).optional(),
  images: z.array(z.string().min(1)).optional(),
  question: z.string(),
  choices: z.array(z.string()).max(MAX_CHOICES).optional(),
  /** The only image that latent steps pick from, counted from 1. */
  pick_from: z.int().min(1).optional(),
});

export interface QuestionLine {
  /** From 1. */
  line: number;
  /** File and line, for messages. */
  place: string;
  id: string | number | null;
  /** As the line has them: one as `image`, a list as `images`, neither for text alone. */
  image: string | undefined;
  images: string[] | undefined;
  imagePaths: string[];
  question: string;
  choices: string[];
  /** As the line has it. */
  pick_from: number | undefined;
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
      `${place}:${where} ${issue!.message}; a line has question, image or images, and if need be id, choices and pick_from`,
    );
  }
  const { id = null, image, images, question, choices = [], pick_from } = parsed.data;
  if (image !== undefined && images !== undefined)
    throw new UserError(`${place} has image and images; one image is given as image, several as the list images`);
  const named = images ?? (image === undefined ? [] : [image]);
  if (named.some((path) => path.includes('\0'))) throw new UserError(`${place}: image holds a NUL character`);
  const imagePaths = named.map((path) => resolve(dirname(file), path));
  if (pick_from !== undefined && pick_from > named.length)
    throw new UserError(`${place}: pick_from is ${pick_from}, but the line has ${named.length || 'no'} images`);
  return { line, place, id, image, images, imagePaths, question, choices, pick_from };
}
