/** Conversations in the form of OpenAI's API: messages of texts and images, the same in a request to the server and in a file. */
import { z } from 'zod';
import { UserError } from '../errors.ts';
import type { ChatMessage } from '../text/chat-template.ts';

const MAX_MESSAGES = 1000;
/** Characters of a text; a tokenizer takes seconds for more. */
const MAX_TEXT = 2 ** 20;

/** A text of a user. */
export const textSchema = z.string().max(MAX_TEXT);
const textPart = z.object({ type: z.literal('text'), text: textSchema });
const imagePart = z.object({
  type: z.literal('image_url'),
  image_url: z.object({
    url: z.string().describe('A data URL with the bytes of the picture in base64, or an address.'),
  }),
});
const content = z.union([textSchema, z.array(z.discriminatedUnion('type', [textPart, imagePart])).max(MAX_MESSAGES)]);

export const messagesSchema = z
  .array(
    z.discriminatedUnion('role', [
      z.object({ role: z.literal('system'), content }),
      z.object({ role: z.literal('developer'), content }),
      z.object({ role: z.literal('user'), content }),
      z.object({ role: z.literal('assistant'), content }),
    ]),
  )
  .min(1)
  .max(MAX_MESSAGES);

/** Where an image of a conversation is. */
export interface ImageAddress {
  url: string;
  /** The field, for errors. */
  name: string;
}

export interface Turn {
  role: ChatMessage['role'];
  texts: string[];
  images: ImageAddress[];
  /** Texts and images in their order. */
  content: Extract<ChatMessage['content'], unknown[]>;
}

/** One message as a turn. @throws UserError for images outside messages of the user, with the field as its first word */
export function readTurn(message: z.output<typeof messagesSchema>[number], index: number): Turn {
  const role = message.role === 'developer' ? 'system' : message.role;
  const turn: Turn = { role, texts: [], images: [], content: [] };
  const parts =
    typeof message.content === 'string' ? [{ type: 'text' as const, text: message.content }] : message.content;
  parts.forEach((part, at) => {
    if (part.type === 'text') {
      turn.texts.push(part.text);
      turn.content.push({ type: 'text', text: part.text });
      return;
    }
    const name = `messages.${index}.content.${at}.image_url`;
    if (role !== 'user') throw new MisplacedImage(name);
    turn.images.push({ url: part.image_url.url, name });
    turn.content.push({ type: 'image' });
  });
  return turn;
}

/** As a chat template takes it: a text alone where there is no image. */
export function templateMessage({ role, texts, images, content }: Turn): ChatMessage {
  return { role, content: images.length === 0 ? texts.join('\n') : content };
}

export class MisplacedImage extends UserError {
  constructor(readonly field: string) {
    super('pictures belong into messages of the user');
  }
}
