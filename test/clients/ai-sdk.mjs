// The `ai` SDK's provider for OpenAI-compatible servers asks, streams and understands errors: node ai-sdk.mjs URL
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';

const url = process.argv[2];
const puzzle = await (await fetch(`${url}/api/puzzle?seed=7`)).json();
const provider = createOpenAICompatible({ name: 'ivtlr', baseURL: `${url}/v1`, apiKey: 'none', includeUsage: true });
const asked = {
  model: provider('dominoes'),
  messages: [
    {
      role: 'user',
      content: [
        { type: 'file', data: Buffer.from(puzzle.image.split(',')[1], 'base64'), mediaType: 'image/png' },
        { type: 'text', text: puzzle.question },
      ],
    },
  ],
  // Fields beside OpenAI's are passed on under the provider's name.
  providerOptions: { ivtlr: { ivtlr: { choices: puzzle.choices } } },
  maxRetries: 0,
};
const { text, usage, finishReason } = await generateText(asked);
console.log('answer:', text);
assert.match(text, new RegExp(`the answer is ${puzzle.answer}$`));
assert.equal(finishReason, 'stop');

const stream = streamText(asked);
let streamed = '';
for await (const piece of stream.textStream) streamed += piece;
assert.equal(streamed, text);
assert.equal((await stream.usage).totalTokens, usage.totalTokens);

await assert.rejects(generateText({ ...asked, model: provider('gpt-4') }), /there is no model gpt-4 here/);
