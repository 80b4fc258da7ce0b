/** A chat request as one question of the model. */
import { type ImageAddress, MisplacedImage, readTurn, type Turn, templateMessage } from '../data/chat-messages.ts';
import { ABLATIONS, type LatentOptions } from '../latent/options.ts';
import { taskNames } from '../tasks/registry.ts';
import { stripText } from '../text/prompt.ts';
import { type ParsedChat, takesOtherImage } from './chat-schema.ts';
import type { EngineInfo, EngineQuestion, QuestionOptions } from './engine-messages.ts';
import { badRequest } from './http-error.ts';

export type PictureAddress = ImageAddress;

export interface AskedQuestion extends Omit<EngineQuestion, 'pictures' | 'other' | 'stream'> {
  pictures: PictureAddress[];
  other: PictureAddress | null;
}

/**
 * The question that a conversation asks. One turn of the user is put into the words of the task; other conversations go through the chat template,
 * where the model was not taught to answer questions of one form only.
 * @param maxNewTokens longest answer that the server gives
 * @throws HttpError 400 for what the model cannot take
 */
export function questionOf(body: ParsedChat, info: EngineInfo, maxNewTokens: number): AskedQuestion {
  const turns = turnsOf(body);
  const pictures = turns.flatMap((turn) => turn.images);
  if (info.oneImage && pictures.length === 0)
    throw badRequest('the model answers questions about a picture; add one as image_url', 'messages');
  if (info.oneImage && pictures.length > 1)
    throw badRequest(`the model takes one picture, not ${pictures.length}`, pictures[1]!.name, 'too_many_images');
  const { pick_from: pickFrom } = body.ivtlr ?? {};
  if (pickFrom !== undefined && pickFrom > pictures.length)
    throw badRequest(
      `ivtlr.pick_from: there is no picture ${pickFrom}; the messages have ${pictures.length}`,
      'ivtlr.pick_from',
    );
  const last = turns.at(-1)!;
  if (last.role !== 'user')
    throw badRequest('the last message should be of the user', `messages.${turns.length - 1}.role`);
  const { choices } = body.ivtlr ?? {};
  requireFitting([...turns.flatMap(userTexts), ...(choices ?? [])], info);
  const options = optionsOf(body, info, maxNewTokens);
  const other = otherPicture(body, pictures);
  if (turns.length === 1) {
    const question = last.texts.join('\n');
    if (question.trim() === '') throw badRequest('the question is empty', 'messages.0.content');
    return { pictures, other, question, choices: choices ?? [], messages: null, options };
  }
  if (choices !== undefined)
    throw badRequest('with choices the task words the question, so messages should hold one message', 'messages');
  if (info.profile !== 'plain' || !info.chat) {
    const why =
      info.profile === 'plain'
        ? 'the prompts of this model go through no chat template'
        : `the model was taught single questions (profile ${info.profile})`;
    throw badRequest(
      `${why}; send one message of the user, and no system message`,
      'messages',
      'conversation_not_supported',
    );
  }
  const messages = turns.map(templateMessage);
  return { pictures, other, question: '', choices: [], messages, options };
}

/** What of a turn is in the prompt in any case; templates may leave out what the assistant has said. */
function userTexts({ role, texts }: Turn): string[] {
  return role === 'user' ? texts : [];
}

/** Refuses a text that is too long whatever its tokens are, so that it need not be cut into them. Blanks around texts may be stripped. */
function requireFitting(texts: readonly string[], { maxCharacters, maxPositions }: EngineInfo): void {
  const characters = texts.reduce((sum, text) => sum + stripText(text).length, 0);
  if (maxCharacters !== null && characters > maxCharacters)
    throw badRequest(
      `the text has ${characters} characters, which cannot fit into the ${maxPositions} positions of the model`,
      'messages',
    );
}

/** The picture that lends latent steps, where the ablation swaps them. */
function otherPicture({ ivtlr = {} }: ParsedChat, pictures: readonly PictureAddress[]): PictureAddress | null {
  const { ablation, other_image: other } = ivtlr;
  const swaps = takesOtherImage(ablation);
  if (swaps && !other)
    throw badRequest(
      `ivtlr.ablation: ${ablation} takes the latent steps of the same question about another picture; add it as ivtlr.other_image, {"url": "data:image/png;base64,.."}`,
      'ivtlr.other_image',
    );
  if (!other) return null;
  if (!swaps)
    throw badRequest(
      'ivtlr.other_image: only the ablations that end in -swapped take another picture',
      'ivtlr.other_image',
    );
  if (pictures.length !== 1)
    throw badRequest(
      `ivtlr.other_image: another picture stands in for the one of the question, which has ${pictures.length === 0 ? 'none' : pictures.length}`,
      'ivtlr.other_image',
    );
  return { url: other.url, name: 'ivtlr.other_image' };
}

function turnsOf({ messages }: ParsedChat): Turn[] {
  try {
    return messages.map(readTurn);
  } catch (error) {
    if (error instanceof MisplacedImage) throw badRequest(error.message, error.field);
    throw error;
  }
}

function optionsOf(body: ParsedChat, info: EngineInfo, most: number): QuestionOptions {
  const { latents, patches, ablation, positions, task, force, forbid, pick_from, trace = 'picks' } = body.ivtlr ?? {};
  if (task !== undefined && !taskNames.includes(task))
    throw badRequest(`ivtlr.task: there is no task ${task}; known are ${taskNames.join(', ')}`, 'ivtlr.task');
  const maxNewTokens = body.max_completion_tokens ?? body.max_tokens;
  if (maxNewTokens !== undefined && maxNewTokens > most) {
    const field = body.max_completion_tokens === undefined ? 'max_tokens' : 'max_completion_tokens';
    throw badRequest(`${field}: this server writes at most ${most} tokens`, field);
  }
  const taken = ablation === undefined ? undefined : ABLATIONS[ablation]!;
  const latent: Partial<LatentOptions> = {
    ...(patches !== undefined && { patches }),
    ...(positions !== undefined && { positions }),
    ...taken?.options,
  };
  const latentSteps = taken?.latentSteps ?? latents ?? info.latents;
  return {
    ...{
      latentSteps,
      latent,
      lastStep: taken?.lastStep,
      task,
      maxNewTokens: maxNewTokens ?? most,
      trace,
      seed: seedOf(body.seed),
    },
    ...{ forcePatches: force, forbidPatches: forbid, pickFrom: pick_from && pick_from - 1, sampling: samplingOf(body) },
    stop: typeof body.stop === 'string' ? [body.stop] : body.stop,
    logprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined,
  };
}

/** Greedy unless a temperature is asked for. */
function samplingOf({ temperature = 0, top_k = 0, top_p = 1, min_p = 0, repetition_penalty = 1 }: ParsedChat) {
  return { temperature, topK: Math.max(0, top_k), topP: top_p, minP: min_p, repetitionPenalty: repetition_penalty };
}

/** A generator takes 32 bits; other whole numbers are folded onto them. */
function seedOf(seed: number | undefined): number | undefined {
  return seed === undefined ? undefined : Number(BigInt.asUintN(32, BigInt(seed)));
}
