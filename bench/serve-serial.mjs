// Requests through the engine of `ivtlr infer`, one after the other: node bench/serve-serial.mjs FOLDER THREADS
// Reads a request a line from standard input and answers each with a line.
import readline from 'node:readline';
import { setNumThreads } from '@ivtlr/torch';
import { answer } from '../packages/ivtlr/dist/engine/ask.js';
import { openToAnswer } from '../packages/ivtlr/dist/engine/open-to-answer.js';

const [folder, threads] = process.argv.slice(2);
setNumThreads(Number(threads));
const opened = openToAnswer(folder);
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { image, question, maxTokens } = JSON.parse(line);
  const asked = {
    images: [{ kind: 'encoded', bytes: Buffer.from(image, 'base64'), name: 'picture' }],
    ...{ question, choices: [] },
  };
  const started = performance.now();
  let first = null;
  let answered = null;
  for await (const event of answer(opened, asked, { maxNewTokens: maxTokens })) {
    if (event.type === 'text-delta') first ??= (performance.now() - started) / 1000;
    if (event.type === 'end') answered = event.answer;
  }
  const seconds = (performance.now() - started) / 1000;
  const { image: read, prefill, latents, decode } = answered.seconds;
  const outside = seconds - read - prefill - latents - decode;
  console.log(JSON.stringify({ seconds, first, outside, tokens: answered.tokens.length }));
}
