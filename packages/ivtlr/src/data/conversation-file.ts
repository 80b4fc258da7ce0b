/** A conversation in a file: messages in the form of OpenAI's API, images as paths or data URLs. */
import { dirname, resolve } from 'node:path';
import { schemaMistakes, UserError } from '../errors.ts';
import { readJson } from '../files.ts';
import type { ChatMessage } from '../text/chat-template.ts';
import { readImageFile } from '../vision/image-file.ts';
import { type ImageAddress, MisplacedImage, messagesSchema, readTurn, templateMessage } from './chat-messages.ts';
import type { RawImage } from './sample.ts';

/** A question that is a conversation. */
export interface Conversation {
  images: RawImage[];
  question: string;
  choices: string[];
  /** Absent for one turn of the user, which is a question. */
  messages?: ChatMessage[];
}

const DATA_URL = /^data:[^,]{0,200};base64,/i;

/**
 * Reads a JSON list of messages, or an object that has it as `messages`, such as a request to the server. Image paths count from the file.
 * @throws UserError naming the file and the field that is wrong
 */
export function readConversation(file: string): Conversation {
  const value = readJson(file, 'conversation');
  const messages = Array.isArray(value) ? value : (value as { messages?: unknown } | null)?.messages;
  const parsed = messagesSchema.safeParse(messages);
  if (!parsed.success)
    throw new UserError(
      `${file} should hold a list of messages such as [{"role": "user", "content": "What is it?"}]:\n${schemaMistakes(parsed.error)}`,
    );
  const turns = parsed.data.map((message, index) => {
    try {
      return readTurn(message, index);
    } catch (error) {
      if (error instanceof MisplacedImage) throw new UserError(`${file}, ${error.field}: ${error.message}`);
      throw error;
    }
  });
  if (turns.at(-1)!.role !== 'user') throw new UserError(`${file}: the last message should be of the user`);
  const images = turns.flatMap((turn) => turn.images).map((address) => readImage(address, file));
  if (turns.length === 1) return { images, question: turns[0]!.texts.join('\n'), choices: [] };
  return { images, question: '', choices: [], messages: turns.map(templateMessage) };
}

function readImage({ url, name }: ImageAddress, file: string): RawImage {
  const where = `${file}, ${name}`;
  const head = DATA_URL.exec(url);
  if (head)
    return { kind: 'encoded', bytes: new Uint8Array(Buffer.from(url.slice(head[0].length), 'base64')), name: where };
  if (/^(data|https?):/i.test(url))
    throw new UserError(`${where}: should be a path, or a data URL such as data:image/png;base64,..`);
  const path = resolve(dirname(file), url);
  return { kind: 'encoded', bytes: readImageFile(path), name: path };
}
