/** Writes what an answer looked at: an image for people and the numbers for programs. */
import { join } from 'node:path';
import type { Answer, Question } from '../engine/ask.ts';
import { makeFolder, writeFileAtomic } from '../files.ts';
import { choiceLetter } from '../text/prompt.ts';
import { decodeImage } from '../vision/decode.ts';
import type { ImageSource, RgbImage } from '../vision/image.ts';
import { placeOf, type TokenLayout } from '../vision/token-views.ts';
import { drawTrace } from './trace-image.ts';

export interface TraceFiles {
  image: string;
  numbers: string;
}

/**
 * Writes `<folder>/<name>.png` (the image, then a panel per latent step) and `<folder>/<name>.json`.
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
  makeFolder(folder);
  const files = { image: join(folder, `${name}.png`), numbers: join(folder, `${name}.json`) };
  const original = await decodeImage(question.image);
  const { tokenGrid, views, source } = answer;
  const image = source.shown ? cutOut(original, source.shown) : original;
  const steps = answer.trace;
  const cutFrom = image === original ? undefined : original;
  const texts = { question: questionText(question), answer: answer.text };
  writeFileAtomic(files.image, drawTrace({ image, cutFrom, tokenGrid, views, steps, ...texts }));
  const numbers = { ...about, ...answerToJson(question, answer), image: { name: imageName(question), ...source } };
  writeFileAtomic(files.numbers, `${JSON.stringify(numbers, null, 1)}\n`);
  return files;
}

/** A part of an image, to the pixel; black where it sticks out. */
function cutOut(image: RgbImage, part: NonNullable<ImageSource['shown']>): RgbImage {
  const left = Math.round(part.left);
  const top = Math.round(part.top);
  const width = Math.max(1, Math.round(part.width));
  const height = Math.max(1, Math.round(part.height));
  const data = new Uint8Array(width * height * 3);
  const from = Math.max(0, left);
  const to = Math.min(image.width, left + width);
  for (let row = 0; row < height; row++) {
    const y = top + row;
    if (y < 0 || y >= image.height || to <= from) continue;
    const bytes = image.data.subarray((y * image.width + from) * 3, (y * image.width + to) * 3);
    data.set(bytes, (row * width + from - left) * 3);
  }
  return { width, height, data };
}

/** The answer with its trace as plain data; picked patches with their places in the grid. */
export function answerToJson(question: Question, answer: Answer): Record<string, unknown> {
  const { tokenGrid, views } = answer;
  return {
    question: question.question,
    choices: [...question.choices],
    answer: answer.text,
    finishReason: answer.finishReason,
    stopString: answer.stopString,
    autoregressiveSteps: answer.autoregressiveSteps,
    latentSteps: answer.picked.length,
    generatedTokens: answer.tokens.length,
    tokens: answer.tokens,
    seconds: answer.seconds,
    tokenGrid,
    ...(views && { views }),
    steps: answer.trace.map((step, index) => ({
      step: index + 1,
      attentionRatio: step.attentionRatio,
      focus: step.focus,
      picked: step.picked.map((token, order) => ({
        token,
        ...placeIn(answer, token),
        score: step.pickedScores[order],
      })),
      scores: step.scores,
    })),
  };
}

/** Row and column; with several views also the one whose they are. */
function placeIn(layout: TokenLayout, token: number) {
  const { view, row, column } = placeOf(layout, token);
  return layout.views ? { view: view.name, row, column } : { row, column };
}

function questionText({ question, choices }: Question): string {
  return [question, ...choices.map((choice, index) => `(${choiceLetter(index)}) ${choice}`)].join('\n');
}

function imageName({ image }: Question): string | null {
  return image.kind === 'encoded' ? image.name : null;
}
