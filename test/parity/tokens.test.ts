/** The real Qwen2 vocabulary against Hugging Face tokenizers and transformers' chat templates; see README.md for the goldens. */
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ChatMessage, parseChatTemplate, renderChat } from '../../packages/ivtlr/src/text/chat-template.ts';
import { LATENT_TOKENS, Tokenizer } from '../../packages/ivtlr/src/text/tokenizer.ts';
import { readGolden } from './model.ts';

interface Chat {
  messages: ChatMessage[];
  add_generation_prompt: boolean;
  rendered: string;
}

interface Goldens {
  package: { name: string; version: string; file: string };
  drop_added_from: number;
  added: string[];
  added_ids: number[];
  chat_template: string;
  chats: (Chat & { image_tokens: number; latents: number; expanded_ids: number[] })[];
  package_chats: Chat[];
  streams: { ids: number[]; pieces: string[] }[];
  cases: { text: string; ids: number[]; decoded?: string; skipped?: string }[];
}

const goldens = readGolden<Goldens>('tokens.json');
const require = createRequire(import.meta.url);
/** The package's folder; its `exports` need not name the file. */
const source = (() => {
  for (let folder = dirname(require.resolve(goldens.package.name)); ; folder = dirname(folder))
    if (fs.existsSync(join(folder, goldens.package.file))) return folder;
    else if (dirname(folder) === folder) throw new Error(`${goldens.package.name} holds no ${goldens.package.file}`);
})();

let folder: string;
let tokenizer: Tokenizer;
beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-tokens-'));
  const definition = JSON.parse(fs.readFileSync(join(source, goldens.package.file), 'utf8')) as {
    added_tokens: { id: number }[];
  };
  definition.added_tokens = definition.added_tokens.filter(({ id }) => id < goldens.drop_added_from);
  fs.writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(definition));
  fs.writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ eos_token: '<|im_end|>' }));
  tokenizer = Tokenizer.fromFolder(folder);
  tokenizer.addSpecialTokens(LATENT_TOKENS);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

test('the vocabulary is the one the goldens were made with', () => {
  const { version } = JSON.parse(fs.readFileSync(join(source, 'package.json'), 'utf8')) as { version: string };
  expect(version).toBe(goldens.package.version);
  expect(goldens.added).toEqual([...LATENT_TOKENS]);
  expect(LATENT_TOKENS.map((token) => tokenizer.tokenToId(token))).toEqual(goldens.added_ids);
  expect(goldens.added_ids).toEqual([151657, 151658, 151659]);
  expect(tokenizer.vocabSize).toBe(151660);
  expect(tokenizer.eosId).toBe(151645);
});

test('token ids of 500 strings', async () => {
  expect(goldens.cases.length).toBe(500);
  const ids = await tokenizer.encodeBatch(goldens.cases.map(({ text }) => text));
  goldens.cases.forEach((golden, i) => {
    expect(ids[i], JSON.stringify(golden.text)).toEqual(golden.ids);
  });
});

test('text of their ids, with and without special tokens', () => {
  for (const { text, ids, decoded = text, skipped = decoded } of goldens.cases) {
    expect(tokenizer.decode(ids, { skipSpecial: false })).toBe(decoded);
    expect(tokenizer.decode(ids)).toBe(skipped);
  }
});

test('streaming joins to the same text', () => {
  for (const { text, ids, decoded = text, skipped = decoded } of goldens.cases) {
    const stream = tokenizer.stream();
    expect(ids.map((id) => stream.push(id)).join('') + stream.end(), JSON.stringify(text)).toBe(skipped);
  }
});

test.each(goldens.streams.map((golden, i) => [i, golden] as const))('pieces of stream %i', (_, { ids, pieces }) => {
  const stream = tokenizer.stream();
  expect(ids.map((id) => stream.push(id))).toEqual(pieces);
});

describe('chat templates', () => {
  const template = parseChatTemplate(goldens.chat_template, 'tokens.json', {});

  test.each(goldens.chats.map((golden, i) => [i, golden] as const))('chat %i: text and ids', async (_, golden) => {
    const text = renderChat(template, golden.messages, { addGenerationPrompt: golden.add_generation_prompt });
    expect(text).toBe(golden.rendered);
    const pad = tokenizer.tokenToId('<|image_pad|>')!;
    const latent = tokenizer.tokenToId('<|latent|>')!;
    const ids = (await tokenizer.encode(text)).flatMap((id) =>
      id === pad ? new Array<number>(golden.image_tokens).fill(pad) : [id],
    );
    expect([...ids, ...new Array<number>(golden.latents).fill(latent)]).toEqual(golden.expanded_ids);
  });

  test.each(goldens.package_chats.map((golden, i) => [i, golden] as const))(
    "the package's own template: chat %i",
    (_, golden) => {
      const path = join(source, dirname(goldens.package.file), 'tokenizer_config.json');
      const config = JSON.parse(fs.readFileSync(path, 'utf8')) as { chat_template: string };
      const own = parseChatTemplate(config.chat_template, path, {});
      expect(renderChat(own, golden.messages, { addGenerationPrompt: golden.add_generation_prompt })).toBe(
        golden.rendered,
      );
    },
  );
});
