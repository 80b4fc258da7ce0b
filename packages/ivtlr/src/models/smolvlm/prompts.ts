/** Prompt strings of SmolVLM, for which no official IVT-LR code exists: questions go through the folder's own chat template. */
import { join } from 'node:path';
import { UserError } from '../../errors.ts';
import {
  choiceLetter,
  type ProfileName,
  type PromptFormat,
  type PromptProfile,
  plainText,
  stripText,
} from '../../text/prompt.ts';
import { FRAME_TOKEN, IMAGE_TOKEN } from './written-image.ts';

const consistent: PromptFormat = {
  chat: true,
  text(question, choices) {
    const options = choices.map((choice, index) => `(${choiceLetter(index)}).{${stripText(choice)}}\n`);
    const block = choices.length > 0 ? `[Options]:\n${options.join('')}` : '';
    return `[Question]:{${stripText(question)}}\n${block}Answer:\n`;
  },
};
const plain: PromptFormat = { chat: true, text: plainText };

/**
 * `consistent`: one form for training and inference, that of the other families' profile of this name.
 * `plain`: the question itself, as SmolVLM is asked elsewhere.
 */
export function smolVlmPrompts(profile: ProfileName): PromptProfile {
  const format = profile === 'plain' ? plain : consistent;
  return { name: profile, train: format, infer: format };
}

/** @throws UserError for a folder whose tokenizer lacks a marker that it would silently read letter by letter */
export function requireMarkers(folder: string, tokenizer: { tokenToId(token: string): number | undefined }): void {
  for (const token of [IMAGE_TOKEN, FRAME_TOKEN])
    if (tokenizer.tokenToId(token) === undefined)
      throw new UserError(`${join(folder, 'tokenizer.json')} does not know ${token}, which SmolVLM's prompts need`);
}
