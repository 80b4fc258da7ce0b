/** From what the pages show to what is asked. */
import type { IvtlrRequest } from '../../../../packages/ivtlr/src/server/protocol.ts';
import type { Asked } from './answer.ts';
import { numberIn } from './place.ts';
import type { QuestionState } from './use-question.ts';
import type { Model } from './use-server.ts';

export const DEFAULT_MAX_TOKENS = 128;

export function chosenModel(models: readonly Model[], params: URLSearchParams): Model | null {
  return models.find(({ id }) => id === params.get('model')) ?? models[0] ?? null;
}

/** @returns null while words, the model, or the picture that it needs are missing */
export function buildAsked(question: QuestionState, model: Model | null, params: URLSearchParams): Asked | null {
  const { pictures, text, choices, gold } = question;
  if (!model || text.trim() === '' || (model.ivtlr.oneImage && pictures.length !== 1)) return null;
  const latents = numberIn(params, 'latents');
  const patches = numberIn(params, 'patches');
  const task = params.get('task');
  const options: IvtlrRequest = {
    ...(latents !== null && { latents }),
    ...(patches !== null && { patches }),
    ...(task !== null && { task }),
  };
  const kept = choices.map((choice) => choice.trim()).filter((choice) => choice !== '');
  return {
    question: { pictures, text: text.trim(), choices: kept, gold },
    model: model.id,
    maxTokens: numberIn(params, 'max') ?? Math.min(DEFAULT_MAX_TOKENS, model.ivtlr.maxTokens),
    options,
  };
}

/** Whether two answers are to the same question, of whichever model. */
export function sameQuestion(one: Asked, other: Asked): boolean {
  const all = ({ question, maxTokens }: Asked) =>
    JSON.stringify([question.pictures.map(({ url }) => url), question.text, question.choices, maxTokens]);
  return all(one) === all(other);
}

/** Whether it was asked of the same model, too: the difference of two answers is then that of the options. */
export function sameQuestionAndModel(one: Asked, other: Asked): boolean {
  return one.model === other.model && sameQuestion(one, other);
}
