/** A chat request as one question of the model. */
import { ABLATIONS, type LatentOptions } from '../latent/options.ts';
import { taskNames } from '../tasks/registry.ts';
import type { ChatMessage as TemplateMessage } from '../text/chat-template.ts';
import type { ParsedChat } from './chat-schema.ts';
import type { EngineInfo, EngineQuestion, QuestionOptions } from './engine-messages.ts';
import { badRequest } from './http-error.ts';

/** Where the picture of a conversation stands. */
export interface PictureAddress {
  url: string;
  /** The field, for errors. */
  name: string;
}

export interface AskedQuestion extends Omit<EngineQuestion, 'picture'> {
  picture: PictureAddress;
}

interface Turn {
  role: 'system' | 'user' | 'assistant';
  texts: string[];
  pictures: PictureAddress[];
  /** Texts and pictures in their order. */
  content: Extract<TemplateMessage['content'], unknown[]>;
}

/**
 * The question that a conversation asks. One turn of the user is put into the words of the task; other conversations go through the chat template,
 * where the model was not taught to answer questions of one form only.
 * @param maxNewTokens longest answer that the server gives
 * @throws HttpError 400 for what the model cannot take
 */
export function questionOf(body: ParsedChat, info: EngineInfo, maxNewTokens: number): AskedQuestion {
  const turns = body.messages.map(readTurn);
  const pictures = turns.flatMap((turn) => turn.pictures);
  const picture = pictures[0];
  if (!picture) throw badRequest('the model answers questions about a picture; add one as image_url', 'messages');
  if (pictures.length > 1)
    throw badRequest(`the model takes one picture, not ${pictures.length}`, pictures[1]!.name, 'too_many_images');
  const last = turns.at(-1)!;
  if (last.role !== 'user')
    throw badRequest('the last message should be of the user', `messages.${turns.length - 1}.role`);
  const { choices } = body.ivtlr ?? {};
  const options = optionsOf(body, info, maxNewTokens);
  if (turns.length === 1) {
    const question = last.texts.join('\n');
    if (question.trim() === '') throw badRequest('the question is empty', 'messages.0.content');
    return { picture, question, choices: choices ?? [], messages: null, options };
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
  const messages = turns.map(({ role, texts, pictures, content }): TemplateMessage => {
    return { role, content: pictures.length === 0 ? texts.join('\n') : content };
  });
  return { picture, question: '', choices: [], messages, options };
}

function readTurn(message: ParsedChat['messages'][number], index: number): Turn {
  const role = message.role === 'developer' ? 'system' : message.role;
  const turn: Turn = { role, texts: [], pictures: [], content: [] };
  const parts =
    typeof message.content === 'string' ? [{ type: 'text' as const, text: message.content }] : message.content;
  parts.forEach((part, at) => {
    if (part.type === 'text') {
      turn.texts.push(part.text);
      turn.content.push({ type: 'text', text: part.text });
      return;
    }
    const name = `messages.${index}.content.${at}.image_url`;
    if (role !== 'user') throw badRequest('pictures belong into messages of the user', name);
    turn.pictures.push({ url: part.image_url.url, name });
    turn.content.push({ type: 'image' });
  });
  return turn;
}

function optionsOf(body: ParsedChat, info: EngineInfo, most: number): QuestionOptions {
  const { latents, patches, ablation, positions, task, force, forbid, trace = 'picks' } = body.ivtlr ?? {};
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
    ...{ latentSteps, latent, task, maxNewTokens: maxNewTokens ?? most, trace, seed: seedOf(body.seed) },
    ...{ forcePatches: force, forbidPatches: forbid, sampling: samplingOf(body) },
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
