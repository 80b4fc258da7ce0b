/** Conversations, about images or none, through the chat template as their makers document it. */
import { UserError } from '../errors.ts';
import { type ChatMessage, renderChat } from '../text/chat-template.ts';
import { expandImages, type PromptImage, requireImageCount, requireImages, writeImages } from '../text/prompt-image.ts';
import { idOf, type RenderOptions, type TokenizedSample } from './render.ts';

/**
 * The prompt that asks for the next turn of the assistant.
 * @param messages with content of kind `image` once for each image
 * @throws UserError when a text spells a token that only the template may put in, or the prompts of this model go through no chat template
 */
export async function tokenizeConversation(
  messages: readonly ChatMessage[],
  images: readonly PromptImage[],
  options: RenderOptions,
): Promise<Pick<TokenizedSample, 'promptIds' | 'afterLatentIds'>> {
  const { tokenizer, profile, imageToken, chatTemplate } = options;
  const { chat, afterLatents = '' } = profile.infer;
  if (!chat || !chatTemplate)
    throw new UserError(`the prompt profile ${profile.name} of this model has no conversations`);
  if (profile.name !== 'plain')
    throw new UserError(
      `the model was taught single questions (profile ${profile.name}); give one message of the user, or use the profile plain`,
    );
  requireImageCount(profile, images.length);
  const promptOf = (turns: readonly ChatMessage[]) =>
    writeImages(renderChat(chatTemplate, turns, { addGenerationPrompt: true }), images, imageToken);
  const frame = messages.map((message) => withTexts(message, (text) => (text === '' ? '' : 'x')));
  const encoded = await tokenizer.encodeBatch([
    afterLatents,
    promptOf(frame),
    promptOf(messages.map((message) => withTexts(message, (text) => text))),
  ]);
  const [afterLatentIds, frameIds, markedIds] = encoded as [number[], number[], number[]];
  const imageId = idOf(tokenizer, imageToken);
  requireImages(frameIds, imageId, images, true, options);
  const added = (ids: readonly number[]) => ids.filter((id) => tokenizer.isAdded(id));
  if (String(added(markedIds)) !== String(added(frameIds))) throw await spelledToken(messages, options);
  return { promptIds: expandImages(markedIds, imageId, images, imageToken), afterLatentIds };
}

function withTexts(message: ChatMessage, change: (text: string) => string): ChatMessage {
  const { role, content } = message;
  // As a list of parts: some templates, such as SmolVLM's, write nothing for a plain text.
  if (typeof content === 'string') return { role, content: [{ type: 'text', text: change(content) }] };
  return { role, content: content.map((part) => (part.type === 'text' ? { ...part, text: change(part.text) } : part)) };
}

/** Which message spells which token. */
async function spelledToken(messages: readonly ChatMessage[], { tokenizer }: RenderOptions): Promise<UserError> {
  const texts = messages.map(({ content }) =>
    typeof content === 'string' ? content : content.map((part) => (part.type === 'text' ? part.text : '')).join('\n'),
  );
  const encoded = await tokenizer.encodeBatch(texts);
  for (const [index, ids] of encoded.entries()) {
    const id = ids.find((id) => tokenizer.isAdded(id));
    if (id !== undefined)
      return new UserError(
        `message ${index + 1} spells ${tokenizer.idToToken(id)}, a token that only the prompt may put in; write it otherwise`,
      );
  }
  return new UserError('a message together with the prompt spells a token that only the prompt may put in');
}
