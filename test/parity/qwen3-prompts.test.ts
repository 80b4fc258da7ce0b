/** Conversations and questions of Qwen3-VL with the real vocabulary, their pictures read here, against its processor; see README.md for the goldens. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { tokenizeConversation } from '../../packages/ivtlr/src/data/conversation.ts';
import { renderInference, tokenizeSample } from '../../packages/ivtlr/src/data/render.ts';
import { openWithoutWeights } from '../../packages/ivtlr/src/engine/folder-rendering.ts';
import { type ChatMessage, loadChatTemplate, renderChat } from '../../packages/ivtlr/src/text/chat-template.ts';
import { QWEN3_VL } from '../tiny-qwen.ts';
import { readGolden } from './model.ts';
import { writeQwenTokenizer } from './qwen-tokenizer.ts';

interface Case {
  messages: ChatMessage[];
  pictures: string[];
  /** Image tokens of each picture. */
  tokens: number[];
  text: string;
  input_ids: number[];
}

const goldens = readGolden<{ template: string; preprocessor: object; cases: Case[] }>('qwen3-prompts.json');
const folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-qwen3-prompts-'));
beforeAll(() => {
  writeQwenTokenizer(folder, goldens.template);
  const { text_config, ...rest } = QWEN3_VL;
  const config = { ...rest, text_config: { ...text_config, vocab_size: 151936 }, image_token_id: 151655 };
  fs.writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  fs.writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(goldens.preprocessor));
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const encoded = (file: string) => ({
  kind: 'encoded' as const,
  bytes: fs.readFileSync(fileURLToPath(new URL(`goldens/preprocess/images/${file}`, import.meta.url))),
  name: file,
});

/** What the processor makes of pictures. */
async function layouts(pictures: readonly string[]) {
  const { inputs } = openWithoutWeights(folder, { profile: 'plain' });
  return Promise.all(pictures.map(async (file) => inputs.layout(await inputs.prepare(encoded(file)))));
}

test.each(goldens.cases.map((each, i) => [i + 1, each] as const))('conversation %i', async (_, golden) => {
  const { messages, pictures, tokens, text, input_ids: ids } = golden;
  const images = await layouts(pictures);
  expect(images.map((image) => image.tokens)).toEqual(tokens);
  expect(renderChat(loadChatTemplate(folder), messages, { addGenerationPrompt: true })).toBe(text);
  const options = openWithoutWeights(folder, { profile: 'plain' }).renderOptions('m3cot');
  const { promptIds, afterLatentIds } = await tokenizeConversation(messages, images, options);
  expect([...promptIds, ...afterLatentIds]).toEqual(ids);
});

test('a question of the profile consistent is one message of the user, and latent slots end it', async () => {
  const golden = goldens.cases.find(({ text }) => text.includes('[Options]'))!;
  const { pictures, input_ids: ids } = golden;
  const options = openWithoutWeights(folder, { profile: 'consistent' }).renderOptions('m3cot');
  const sample = {
    id: 'q',
    images: [],
    question: ' Which? ',
    choices: ['x', 'größer'],
    rationale: '',
    answer: 'A',
    meta: {},
  };
  for (const phase of ['train', 'infer'] as const) {
    const tokenized = await tokenizeSample(sample, await layouts(pictures), phase, options);
    expect(tokenized.promptIds).toEqual(ids);
    const { ids: rendered, latentStart } = renderInference(tokenized, 2);
    expect([latentStart, rendered.slice(ids.length)]).toEqual([ids.length, [tokenized.latentId, tokenized.latentId]]);
  }
});
