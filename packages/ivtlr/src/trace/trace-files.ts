/** Writes what an answer looked at: an image for people and the numbers for programs. */
import { join } from 'node:path';
import type { Answer, Question } from '../engine/ask.ts';
import { makeFolder, writeFileAtomic } from '../files.ts';
import type { ChatMessage } from '../text/chat-template.ts';
import { choiceLetter } from '../text/prompt.ts';
import { decodeImage } from '../vision/decode.ts';
import type { ImageSource, RawImage, RgbImage } from '../vision/image.ts';
import { imageOf, placeOf, type TokenLayout } from '../vision/token-views.ts';
import { drawTrace } from './trace-image.ts';

export interface TraceFiles {
  image: string;
  numbers: string;
}

/**
 * Writes `<folder>/<name>.png` (each image, then a panel per latent step) and `<folder>/<name>.json`.
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
  const images = await Promise.all(
    question.images.map(async (raw, i) => {
      const original = await decodeImage(raw);
      const { tokenGrid, views, source } = answer.images[i]!;
      const image = source.shown ? cutOut(original, source.shown) : original;
      return { image, cutFrom: image === original ? undefined : original, tokenGrid, views };
    }),
  );
  const texts = { question: questionText(question), answer: answer.text };
  writeFileAtomic(files.image, drawTrace({ images, steps: answer.trace, ...texts }));
  const numbers = { ...about, ...answerToJson(question, answer) };
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
  return {
    question: question.question,
    choices: [...question.choices],
    ...(question.messages && { messages: question.messages }),
    answer: answer.text,
    finishReason: answer.finishReason,
    stopString: answer.stopString,
    autoregressiveSteps: answer.autoregressiveSteps,
    latentSteps: answer.picked.length,
    generatedTokens: answer.tokens.length,
    tokens: answer.tokens,
    seconds: answer.seconds,
    images: answer.images.map(({ source, ...layout }, i) => ({
      name: imageName(question.images[i]!),
      ...source,
      ...layout,
    })),
    steps: answer.trace.map((step, index) => ({
      step: index + 1,
      attentionRatio: step.attentionRatio,
      focus: step.focus,
      picked: step.picked.map((token, order) => ({
        token,
        ...placeIn(answer.images, token),
        score: step.pickedScores[order],
      })),
      scores: step.scores,
    })),
  };
}

/** Which image, from 0, and row and column; with several views also the one whose they are. */
function placeIn(images: readonly TokenLayout[], token: number) {
  const { image, token: own } = imageOf(images, token);
  const { view, row, column } = placeOf(images[image]!, own);
  return { image, ...(images[image]!.views && { view: view.name }), row, column };
}

function questionText({ question, choices, messages }: Question): string {
  if (messages) return messages.map(messageText).join('\n');
  return [question, ...choices.map((choice, index) => `(${choiceLetter(index)}) ${choice}`)].join('\n');
}

function messageText({ role, content }: ChatMessage): string {
  const parts = typeof content === 'string' ? [{ type: 'text' as const, text: content }] : content;
  return `${role}: ${parts.map((part) => (part.type === 'text' ? part.text : '[image]')).join(' ')}`;
}

function imageName(image: RawImage): string | null {
  return image.kind === 'encoded' ? image.name : null;
}
