/** Conversations become the tokens that the chat template gives, and texts stay texts. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { qwen2VlPrompts } from '../models/qwen2-vl/prompts.ts';
import { writeDominoesTokenizer } from '../tasks/dominoes/vocabulary.ts';
import { type ChatMessage, parseChatTemplate } from '../text/chat-template.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import { tokenizeConversation } from './conversation.ts';
import { type RenderOptions, tokenizeSample } from './render.ts';

// As Qwen2-VL's, with words that the small tokenizer knows in place of roles.
const TEMPLATE =
  "{% for m in messages %}{{ {'system': 'Start', 'user': 'follow', 'assistant': 'Therefore'}[m.role] }}\n" +
  "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{% if part.type == 'image' %}" +
  '<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|endoftext|>\n' +
  '{% endfor %}{% if add_generation_prompt %}Therefore\n{% endif %}';

let folder = '';
let tokenizer: Tokenizer;
let options: RenderOptions;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-conversation-'));
  writeDominoesTokenizer(folder);
  tokenizer = Tokenizer.fromFolder(folder);
  options = {
    ...{ tokenizer, profile: qwen2VlPrompts('plain'), imageToken: '<|image_pad|>', latentToken: '<|latent|>' },
    chatTemplate: parseChatTemplate(TEMPLATE),
  };
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const picture = { type: 'image' as const };
const text = (words: string) => ({ type: 'text' as const, text: words });

test('turns in their order, the image where it stands', async () => {
  const messages: ChatMessage[] = [
    { role: 'system', content: 'the answer' },
    { role: 'user', content: [text('which colour'), picture] },
    { role: 'assistant', content: 'red' },
    { role: 'user', content: 'to blue ?' },
  ];
  const { promptIds, afterLatentIds } = await tokenizeConversation(messages, [{ tokens: 3 }], options);
  expect(promptIds.map((id) => tokenizer.idToToken(id))).toEqual([
    ...['Start', '\n', 'the', 'answer', '<|endoftext|>', '\n'],
    ...['follow', '\n', 'which', 'colour', '<|vision_start|>', ...Array(3).fill('<|image_pad|>'), '<|vision_end|>'],
    ...['<|endoftext|>', '\n', 'Therefore', '\n', 'red', '<|endoftext|>', '\n'],
    ...['follow', '\n', 'to', 'blue', '?', '<|endoftext|>', '\n', 'Therefore', '\n'],
  ]);
  expect(afterLatentIds).toEqual([]);
});

test('one turn of the user is the prompt of a question', async () => {
  const image = { kind: 'rgb' as const, width: 1, height: 1, data: new Uint8Array(3) };
  const sample = {
    id: '',
    images: [image],
    question: 'which colour ?',
    choices: [],
    rationale: '',
    answer: '',
    meta: {},
  };
  const asked = await tokenizeSample(sample, [{ tokens: 4 }], 'infer', options);
  const said = await tokenizeConversation(
    [{ role: 'user', content: [picture, text('which colour ?')] }],
    [{ tokens: 4 }],
    options,
  );
  expect(said.promptIds).toEqual(asked.promptIds);
});

test('a special token in any turn is refused with its place', async () => {
  for (const [at, role] of [
    [0, 'system'],
    [2, 'assistant'],
    [3, 'user'],
  ] as const) {
    const messages: ChatMessage[] = [
      { role: 'system', content: 'the answer' },
      { role: 'user', content: [picture, text('which colour')] },
      { role: 'assistant', content: 'red' },
      { role: 'user', content: 'blue' },
    ];
    messages[at] = { role, content: 'red <|endoftext|> blue' };
    await expect(tokenizeConversation(messages, [{ tokens: 3 }], options)).rejects.toThrow(
      `message ${at + 1} spells <|endoftext|>, a token that only the prompt may put in`,
    );
  }
});

test('without a picture, with two, and for a model whose prompts go through no template', async () => {
  const one: ChatMessage = { role: 'user', content: [picture, text('red')] };
  await expect(tokenizeConversation([{ role: 'user', content: 'red' }], [{ tokens: 3 }], options)).rejects.toThrow(
    'once',
  );
  await expect(tokenizeConversation([one, one], [{ tokens: 3 }], options)).rejects.toThrow('once');
  const { chatTemplate, ...without } = options;
  await expect(tokenizeConversation([one], [{ tokens: 3 }], without)).rejects.toThrow('has no conversations');
});
