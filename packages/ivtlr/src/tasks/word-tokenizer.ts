/**
 * A word-level tokenizer of few words, for a small model that learns one task from random weights. It is written as an ordinary Hugging Face
 * tokenizer folder, so that this model goes through the same rendering as any other: the frame of a prompt is cut into few tokens, every word is
 * one token wherever it stands.
 */
import { join } from 'node:path';
import { writeFileAtomic } from '../files.ts';
import { LATENT_TOKENS } from '../text/tokenizer.ts';
import type { Vocabulary } from './task.ts';

export const UNKNOWN = '<|unk|>';

/** Special tokens in the order of their ids, the latent ones last. The first ends texts and pads batches. */
export const SPECIAL_TOKENS = [
  '<|endoftext|>',
  '<|vision_start|>',
  '<|vision_end|>',
  '<|image_pad|>',
  '<|video_pad|>',
  ...LATENT_TOKENS,
] as const;

/** Images are marked, texts stand as they are: no roles and no system text, which would cost a small model many tokens. */
const CHAT_TEMPLATE =
  "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}" +
  "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>" +
  "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}";

/** All tokens, by id. */
export function wordTokens({ frame, words }: Vocabulary): string[] {
  return [UNKNOWN, ...frame, ...words, ...SPECIAL_TOKENS];
}

/** The content of tokenizer.json. */
function wordTokenizer(vocabulary: Vocabulary): Record<string, unknown> {
  const tokens = wordTokens(vocabulary);
  const firstSpecial = tokens.length - SPECIAL_TOKENS.length;
  const words = tokens.slice(0, firstSpecial);
  const pattern = [...vocabulary.frame.map(escapeRegex), '[A-Za-z]+', '[0-9]', '\\n', '[,.:?]'].join('|');
  const replace = (pattern: Record<string, string>, content: string) => ({ type: 'Replace', pattern, content });
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, index) => ({
      id: firstSpecial + index,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
        { type: 'Split', pattern: { Regex: ' +' }, behavior: 'Removed', invert: false },
      ],
    },
    post_processor: null,
    // Spaces are not tokens: decoding puts one before each token and takes it away where text has none.
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'WordPiece', prefix: '##', cleanup: true },
        { type: 'Fuse' },
        replace({ Regex: ' ?\\n ?' }, '\n'),
        replace({ String: '{ ' }, '{'),
        replace({ String: ' }' }, '}'),
        replace({ String: ' :' }, ':'),
      ],
    },
    model: {
      type: 'WordLevel',
      vocab: Object.fromEntries(words.map((token, id) => [token, id])),
      unk_token: UNKNOWN,
    },
  };
}

/** Writes tokenizer.json, tokenizer_config.json and chat_template.json into a model folder. Returns the number of tokens. */
export function writeWordTokenizer(folder: string, vocabulary: Vocabulary): number {
  const [endOfText] = SPECIAL_TOKENS;
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: null,
    eos_token: endOfText,
    pad_token: endOfText,
    unk_token: UNKNOWN,
    clean_up_tokenization_spaces: false,
  };
  const write = (name: string, content: unknown) =>
    writeFileAtomic(join(folder, name), `${JSON.stringify(content, null, 1)}\n`);
  write('tokenizer.json', wordTokenizer(vocabulary));
  write('tokenizer_config.json', config);
  write('chat_template.json', { chat_template: CHAT_TEMPLATE });
  return wordTokens(vocabulary).length;
}

function escapeRegex(text: string): string {
  return text.replace(/[[\](){}.?*+^$|\\]/g, '\\$&').replaceAll('\n', '\\n');
}
