/** An answer as it grows: chunks of the stream go in, in order. */
import type {
  ChatChunk,
  ChatRequest,
  FinishReason,
  IvtlrRequest,
  IvtlrResponse,
  SeenImage,
  SeenPicture,
  SeenStep,
  Usage,
} from '../../../../packages/ivtlr/src/server/protocol.ts';
import { viewsOf } from '../../../../packages/ivtlr/src/vision/token-views.ts';
import type { Failure } from '../api/failure.ts';
import type { Picture } from './picture.ts';

export interface Question {
  /** In the order in which they are asked about; a model that takes one is asked about one. */
  pictures: readonly Picture[];
  text: string;
  /** Without letters. */
  choices: readonly string[];
  /** The right answer where it is known: a letter or the text of a choice. */
  gold: string | null;
}

/** Everything that an answer depends on. */
export interface Asked {
  question: Question;
  model: string;
  maxTokens: number;
  options: IvtlrRequest;
}

/** A step with the text that it wrote; latent steps write none. */
export type Step = SeenStep & { text: string };

export interface Answer {
  asked: Asked;
  status: 'waiting' | 'streaming' | 'done' | 'failed' | 'stopped';
  text: string;
  /** The pictures as the model sees them. Their views count tokens through all pictures, as steps do. */
  images: readonly SeenImage[];
  steps: readonly Step[];
  finish: FinishReason | null;
  usage: Usage | null;
  settings: IvtlrResponse['settings'] | null;
  seconds: IvtlrResponse['seconds'] | null;
  failure: Failure | null;
  /** Milliseconds, as this browser measured them. */
  started: number;
  firstText: number | null;
  ended: number | null;
}

export function newAnswer(asked: Asked, now: number): Answer {
  return {
    ...{ asked, status: 'waiting', text: '', images: [], steps: [], finish: null, usage: null, settings: null },
    ...{ seconds: null, failure: null, started: now, firstText: null, ended: null },
  };
}

export function toRequest({ question, model, maxTokens, options }: Asked): ChatRequest {
  return {
    model,
    messages: [
      {
        role: 'user',
        content: [
          ...question.pictures.map(({ url }) => ({ type: 'image_url' as const, image_url: { url } })),
          { type: 'text', text: question.text },
        ],
      },
    ],
    max_tokens: maxTokens,
    ivtlr: { ...options, ...(question.choices.length > 0 && { choices: question.choices }), trace: 'full' },
  };
}

export function takeChunk(answer: Answer, chunk: ChatChunk, now: number): Answer {
  const next: Answer = { ...answer, status: 'streaming', usage: chunk.usage ?? answer.usage };
  const choice = chunk.choices.find(({ index }) => index === 0);
  if (!choice) return next;
  const text = choice.delta.content ?? '';
  const { image, images, steps = [], settings, seconds } = choice.ivtlr ?? {};
  return {
    ...next,
    text: answer.text + text,
    firstText: answer.firstText ?? (text === '' ? null : now),
    images: images ? laidOut(images) : image ? [image] : answer.images,
    steps: joinSteps(answer.steps, steps, text),
    finish: choice.finish_reason ?? answer.finish,
    settings: settings ?? answer.settings,
    seconds: seconds ?? answer.seconds,
  };
}

function laidOut(pictures: readonly SeenPicture[]): SeenImage[] {
  return pictures.map(({ firstToken, ...image }) => {
    if (firstToken === 0) return image;
    return { ...image, views: viewsOf(image).map((view) => ({ ...view, start: view.start + firstToken })) };
  });
}

/** Text comes with its token's step, or in a chunk after it: it belongs to the last written token there is. */
function joinSteps(known: readonly Step[], added: readonly SeenStep[], text: string): readonly Step[] {
  if (added.length === 0 && text === '') return known;
  const steps = [...known, ...added.map((step) => ({ ...step, text: '' }))];
  const writer = steps.findLastIndex(({ kind }) => kind === 'token');
  if (writer >= 0) steps[writer] = { ...steps[writer]!, text: steps[writer]!.text + text };
  return steps;
}

export function endAnswer(answer: Answer, status: 'done' | 'failed' | 'stopped', failure: Failure | null, now: number) {
  return { ...answer, status, failure, ended: now };
}

export function latentSteps(answer: Answer): readonly Step[] {
  return answer.steps.filter(({ kind }) => kind === 'latent');
}

export function isRunning(answer: Answer | null | undefined): boolean {
  return answer?.status === 'waiting' || answer?.status === 'streaming';
}

/** The letter that a text ends up with: of `.. the answer is B`, or a text that is nothing but a letter; null when there is none. */
export function chosenLetter(text: string): string | null {
  const said = [...text.matchAll(/\banswer is:?\s*\(?([A-Z])\b/gi)].at(-1) ?? /^\s*\(?([A-Z])\)?[.\s]*$/.exec(text);
  return said?.[1]?.toUpperCase() ?? null;
}

export function letterOf(index: number): string {
  return String.fromCharCode(65 + index);
}

/** Whether the finished answer is right; null when it is not known, as of one that was cut before its letter. */
export function isRight({ text, status, finish, asked: { question } }: Answer): boolean | null {
  const { gold, choices } = question;
  if (gold === null || status !== 'done') return null;
  const letter = chosenLetter(text);
  if (letter === null && finish === 'length') return null;
  const index = choices.indexOf(gold);
  return letter === (index >= 0 ? letterOf(index) : gold);
}
