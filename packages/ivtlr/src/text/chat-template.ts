/** Chat templates: the Jinja text of a model folder, rendered as Hugging Face's `apply_chat_template` does. */
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { UserError } from '../errors.ts';
import { isListed, readJson, readText } from '../files.ts';
import { MAX_LENGTH, renderBounded, TooLongError } from './bounded-jinja.ts';

/** Characters of a template; the longest that models come with have some 20,000. */
const MAX_TEMPLATE = 2 ** 18;

export type ChatContent = { type: 'image' } | { type: 'text'; text: string };

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string | ChatContent[];
}

export interface RenderChatOptions {
  /** End with the opening of the assistant's turn. */
  addGenerationPrompt?: boolean;
}

/** A parsed template. `source` says where it came from, for error messages. */
export interface ChatTemplate {
  readonly source: string;
  /** What the Jinja package has parsed, whose own declarations do not compile everywhere. */
  readonly program: unknown;
  /** Names the template may use, such as `eos_token`. */
  readonly variables: Readonly<Record<string, string>>;
}

/**
 * Reads the chat template of a model folder: `chat_template.jinja`, else `chat_template.json`, else `chat_template` in
 * `tokenizer_config.json` (a text, or a list of named templates of which `default` is taken).
 * @throws UserError when there is none or it cannot be parsed.
 */
export function loadChatTemplate(folder: string): ChatTemplate {
  const configPath = join(folder, 'tokenizer_config.json');
  const config = isListed(configPath) ? asObject(readJson(configPath, 'tokenizer configuration')) : {};
  const variables: Record<string, string> = {};
  for (const name of ['bos_token', 'eos_token', 'pad_token', 'unk_token']) {
    const value = config[name];
    const text = typeof value === 'string' ? value : asObject(value).content;
    if (typeof text === 'string') variables[name] = text;
  }
  const jinjaPath = join(folder, 'chat_template.jinja');
  if (isListed(jinjaPath)) return parseChatTemplate(readText(jinjaPath, 'chat template'), jinjaPath, variables);
  const jsonPath = join(folder, 'chat_template.json');
  const [found, source] = isListed(jsonPath)
    ? [asObject(readJson(jsonPath, 'chat template')).chat_template, jsonPath]
    : [config.chat_template, configPath];
  const text = Array.isArray(found)
    ? found.map(asObject).find((entry) => entry.name === 'default')?.template
    : (found ?? undefined);
  if (typeof text !== 'string') {
    throw new UserError(
      `no chat template in ${folder}: expected chat_template.jinja, chat_template.json or chat_template in tokenizer_config.json`,
    );
  }
  return parseChatTemplate(text, source, variables);
}

/** Parses a template's text. @throws UserError naming `source` when it is not valid Jinja. */
export function parseChatTemplate(
  text: string,
  source = 'chat template',
  variables: Record<string, string> = {},
): ChatTemplate {
  if (text.length > MAX_TEMPLATE)
    throw new UserError(
      `chat template in ${source} has more than ${MAX_TEMPLATE} characters, which no chat template has`,
    );
  try {
    return { source, program: new Template(text).parsed, variables };
  } catch (error) {
    // The library throws errors of its own on some templates that are cut short or nested without end.
    const stumbled = error instanceof TypeError || error instanceof RangeError;
    const why = stumbled ? 'it is cut short or nested wrongly' : (error as Error).message;
    throw new UserError(`chat template in ${source} is not valid Jinja: ${why}`);
  }
}

/** Renders messages to the text a model reads, one image marker per image. @throws UserError when the template refuses them. */
export function renderChat(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: RenderChatOptions = {},
): string {
  try {
    return renderBounded(template.program, {
      ...template.variables,
      messages: [...messages],
      add_generation_prompt: options.addGenerationPrompt ?? false,
    });
  } catch (error) {
    // Templates of few words cannot be blamed for what the messages bring along.
    if (error instanceof TooLongError && JSON.stringify(messages).length > MAX_LENGTH / 2)
      throw new UserError(`the conversation is too long: its prompt has more than ${MAX_LENGTH} characters`);
    throw new UserError(`chat template in ${template.source} failed: ${(error as Error).message}`);
  }
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}
