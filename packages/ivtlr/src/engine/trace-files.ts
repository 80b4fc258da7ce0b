/** Writes what an answer looked at: a picture for people and the numbers for programs. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';
import { drawTrace } from '../latent/trace-picture.ts';
import { choiceLetter } from '../text/prompt.ts';
import { decodeImage } from '../vision/decode.ts';
import type { Answer, Question } from './answer.ts';

export interface TraceFiles {
  picture: string;
  numbers: string;
}

/**
 * Writes `<folder>/<name>.png` (the picture, then a panel per latent step) and `<folder>/<name>.json`.
 *
 * @param about further fields of the JSON file, such as the model's folder or the gold answer.
 */
export async function writeTrace(
  folder: string,
  name: string,
  question: Question,
  answer: Answer,
  about: Record<string, unknown> = {},
): Promise<TraceFiles> {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw new UserError(`the trace folder ${folder} cannot be made: ${(error as Error).message}`);
  }
  const files = { picture: join(folder, `${name}.png`), numbers: join(folder, `${name}.json`) };
  const image = await decodeImage(question.image);
  const { tokenGrid } = answer;
  const steps = answer.trace;
  writeFileAtomic(
    files.picture,
    drawTrace({ image, tokenGrid, steps, question: questionText(question), answer: answer.text }),
  );
  const { width, height } = image;
  const numbers = { ...about, ...answerToJson(question, answer), image: { name: imageName(question), width, height } };
  writeFileAtomic(files.numbers, `${JSON.stringify(numbers, null, 1)}\n`);
  return files;
}

/** The answer with its trace as plain data; picked patches with their places in the grid. */
export function answerToJson(question: Question, answer: Answer): Record<string, unknown> {
  const columns = answer.tokenGrid[1];
  return {
    question: question.question,
    choices: [...question.choices],
    answer: answer.text,
    autoregressiveSteps: answer.autoregressiveSteps,
    latentSteps: answer.trace.length,
    generatedTokens: answer.tokens.length,
    seconds: answer.seconds,
    tokenGrid: answer.tokenGrid,
    steps: answer.trace.map((step, index) => ({
      step: index + 1,
      attentionRatio: step.attentionRatio,
      focus: step.focus,
      picked: step.picked.map((token, order) => ({
        token,
        row: Math.floor(token / columns),
        column: token % columns,
        score: step.pickedScores[order],
      })),
      scores: step.scores,
    })),
  };
}

function questionText({ question, choices }: Question): string {
  return [question, ...choices.map((choice, index) => `(${choiceLetter(index)}) ${choice}`)].join('\n');
}

function imageName({ image }: Question): string | null {
  return image.kind === 'encoded' ? image.name : null;
}
