/**
 * Prompt strings of Chameleon (docs/method.md, prompts). The braces are literal. At inference the official code goes through Hugging Face's
 * ChameleonProcessor, which puts a BOS token in front, start and end tokens around the image, and a separator at the very end, behind the
 * latent slots; in official training there is none of these.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../../errors.ts';
import { readJson } from '../../files.ts';
import {
  choiceLetter,
  type ProfileName,
  type PromptFormat,
  type PromptProfile,
  plainText,
  stripEnd,
  stripText,
} from '../../text/prompt.ts';

export const IMAGE_TOKEN = '<image>';

/** The special tokens of the processor's form, as a folder's tokenizer names them. */
export interface ChameleonTokens {
  bos: string;
  imageStart: string;
  imageEnd: string;
  separator: string;
}

/** The names in the published checkpoints. */
export const CHAMELEON_TOKENS: ChameleonTokens = {
  bos: '<s>',
  imageStart: '<racm3:break>',
  imageEnd: '<eoss>',
  separator: '<reserved08706>',
};

const label = (index: number) => `(${choiceLetter(index)})`;

/** One choice a line, `label.{text}`. */
function listed(choices: readonly string[], labelOf: (index: number) => string): string {
  return choices.map((choice, index) => `${labelOf(index)}.{${stripText(choice)}}`).join('\n');
}

/** The image comes inside the braces, so white space in front of the question is not at an end and stays. */
const officialTraining: PromptFormat = {
  chat: false,
  text: (question, choices) =>
    `[Question]:{${IMAGE_TOKEN}${stripEnd(question)}}\n[Options]:\n${listed(choices, label)}`,
};

/** What the processor makes of a text. */
function processed(tokens: ChameleonTokens, text: PromptFormat['text']): PromptFormat {
  const front = `${tokens.bos}${tokens.imageStart}${IMAGE_TOKEN}${tokens.imageEnd}`;
  return {
    chat: false,
    text: (question, choices) => front + text(stripText(question), choices),
    afterLatents: tokens.separator,
  };
}

/** M3CoT's form keeps the options' heading when there are no options; ScienceQA's leaves it out. */
const officialInference: Record<string, PromptFormat['text']> = {
  m3cot: (question, choices) => `[Question]:{${question}}\n[Options]:\n${listed(choices, choiceLetter)}\nAnswer:`,
  scienceqa: (question, choices) =>
    choices.length > 0
      ? `[Question]:{${question}}\n[Options]:\n${listed(choices, label)}\nAnswer:`
      : `[Question]:{${question}}\nAnswer:`,
};

const consistentText: PromptFormat['text'] = (question, choices) => {
  const options = choices.length > 0 ? `[Options]:\n${listed(choices, label)}\n` : '';
  return `[Question]:{${question}}\n${options}Answer:\n`;
};

/**
 * `official`: what published checkpoints were trained and evaluated with, by task (a task the official code does not know takes M3CoT's).
 * `consistent`: one form for both phases, that of inference with BOS, image delimiters and separator, since those are what the pretrained
 * model knows; options as in training, and an end of line after `Answer:`.
 * `plain`: the question itself, as the processor's documentation has it.
 */
export function chameleonPrompts(
  profile: ProfileName,
  task = 'm3cot',
  tokens: ChameleonTokens = CHAMELEON_TOKENS,
): PromptProfile {
  if (profile === 'consistent') {
    const both = processed(tokens, consistentText);
    return { name: profile, train: both, infer: both, oneImage: true };
  }
  if (profile === 'plain') {
    // The processor puts BOS in front and the separator at the end; the image follows the question, as in its documentation.
    const image = `${tokens.imageStart}${IMAGE_TOKEN}${tokens.imageEnd}`;
    const text: PromptFormat['text'] = (question, choices) => `${tokens.bos}${plainText(question, choices)}${image}`;
    const plain: PromptFormat = { chat: false, text, afterLatents: tokens.separator };
    return { name: profile, train: plain, infer: plain, oneImage: true };
  }
  const infer = processed(tokens, officialInference[task] ?? officialInference.m3cot!);
  return { name: profile, train: officialTraining, infer, oneImage: true };
}

/** Keys of tokenizer_config.json and special_tokens_map.json, as transformers reads them. */
const KEYS: Record<keyof ChameleonTokens, string> = {
  bos: 'bos_token',
  imageStart: 'boi_token',
  imageEnd: 'eoi_token',
  separator: 'sep_token',
};

/**
 * The tokens that a folder's files name, and the published ones for those they do not name.
 * @throws UserError for a token that the tokenizer does not know: it would be read as ordinary text
 */
export function folderTokens(
  folder: string,
  tokenizer: { tokenToId(token: string): number | undefined },
): ChameleonTokens {
  const tokens = { ...CHAMELEON_TOKENS };
  const files = ['tokenizer_config.json', 'special_tokens_map.json'].map((name) => join(folder, name));
  const contents = files
    .filter(existsSync)
    .map((file) => readJson(file, 'special tokens') as Record<string, unknown> | null);
  for (const name of Object.keys(KEYS) as (keyof ChameleonTokens)[]) {
    const stored = contents.map((content) => textOf(content?.[KEYS[name]])).find((text) => text !== undefined);
    tokens[name] = stored ?? tokens[name];
    if (tokenizer.tokenToId(tokens[name]) === undefined) {
      throw new UserError(
        `${join(folder, 'tokenizer.json')} does not know ${tokens[name]}, which Chameleon's prompts need; ` +
          `tokenizer_config.json should name the right token as ${KEYS[name]}`,
      );
    }
  }
  return tokens;
}

function textOf(value: unknown): string | undefined {
  const text = typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value;
  return typeof text === 'string' ? text : undefined;
}
