/** Which conversations become which questions. */
import { expect, test } from 'vitest';
import { questionOf } from './chat-question.ts';
import { parseChat } from './chat-schema.ts';
import type { EngineInfo } from './engine-messages.ts';

const info: EngineInfo = {
  ...{ device: 'cpu', deviceNote: null, family: 'qwen2_vl', dtype: 'float32', task: null, profile: 'plain' },
  ...{ latents: 2, patches: 4, maxPositions: 1000, maxCharacters: null, chat: true, oneImage: true, cacheBytes: 1 },
};
const url = 'data:image/png;base64,AA==';
const picture = { type: 'image_url', image_url: { url } };
const ask = (messages: unknown, more: object = {}, model: Partial<EngineInfo> = {}) =>
  questionOf(parseChat({ messages, ...more }), { ...info, ...model }, 64);

test('one turn is a question: texts in lines, the picture wherever it stands', () => {
  const {
    question,
    choices,
    messages,
    pictures: [seen],
  } = ask([{ role: 'user', content: [{ type: 'text', text: 'a' }, picture, { type: 'text', text: 'b' }] }]);
  expect([question, choices, messages]).toEqual(['a\nb', [], null]);
  expect(seen).toEqual({ url, name: 'messages.0.content.1.image_url' });
});

test('several turns are a conversation where the model takes one', () => {
  const turns = [
    { role: 'developer', content: 'be brief' },
    { role: 'user', content: [picture, { type: 'text', text: 'what is it?' }] },
    { role: 'assistant', content: 'a cat' },
    {
      role: 'user',
      content: [
        { type: 'text', text: 'which' },
        { type: 'text', text: 'colour?' },
      ],
    },
  ];
  expect(ask(turns).messages).toEqual([
    { role: 'system', content: 'be brief' },
    { role: 'user', content: [{ type: 'image' }, { type: 'text', text: 'what is it?' }] },
    { role: 'assistant', content: 'a cat' },
    { role: 'user', content: 'which\ncolour?' },
  ]);
  expect(() => ask(turns, { ivtlr: { choices: ['x'] } })).toThrow('messages should hold one message');
  expect(() => ask(turns, {}, { profile: 'official' })).toThrow('taught single questions (profile official)');
  expect(() => ask(turns, {}, { chat: false })).toThrow('through no chat template');
});

test('options: as the model was trained where nothing is said, an ablation over them', () => {
  const turns = [{ role: 'user', content: [picture, { type: 'text', text: 'x' }] }];
  expect(ask(turns).options).toMatchObject({
    ...{ latentSteps: 2, latent: {}, maxNewTokens: 64, trace: 'picks', seed: undefined, stop: undefined },
    ...{ logprobs: undefined, sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 } },
  });
  const more = {
    ...{ max_tokens: 60, max_completion_tokens: 50, temperature: 0.5, top_k: -1, seed: -1, stop: '.', logprobs: true },
    ivtlr: { latents: 5, patches: 3, ablation: 'zero-latents', positions: 'mrope', force: [[1]] },
  };
  expect(ask(turns, more).options).toMatchObject({
    ...{ latentSteps: 0, latent: { patches: 3, positions: 'mrope' }, maxNewTokens: 50, seed: 2 ** 32 - 1 },
    ...{ stop: ['.'], logprobs: 0, sampling: { temperature: 0.5, topK: 0 }, forcePatches: [[1]] },
  });
  expect(() => ask(turns, { max_tokens: 65 })).toThrow('max_tokens: this server writes at most 64 tokens');
});

test('a text of more characters than fit whatever its tokens are is refused; blanks around it do not count', () => {
  const user = (text: string) => [{ role: 'user', content: [picture, { type: 'text', text }] }];
  const short = { maxCharacters: 10 };
  expect(ask(user(`${' '.repeat(20)}0123456789`), {}, short).question).toHaveLength(30);
  const refused = (messages: unknown, more = {}) => {
    try {
      ask(messages, more, short);
    } catch (error) {
      return error;
    }
    return null;
  };
  const error = {
    status: 400,
    param: 'messages',
    message: 'the text has 11 characters, which cannot fit into the 1000 positions of the model',
  };
  expect(refused(user('0123456789x'))).toMatchObject(error);
  expect(refused(user('0123456789'), { ivtlr: { choices: ['x'] } })).toMatchObject(error);
  // A template may leave out what the assistant has said before.
  const turns = [...user('a'), { role: 'assistant', content: '0123456789x' }, { role: 'user', content: 'b' }];
  expect(refused(turns)).toBeNull();
});
