// The same requests one after the other through the engine of `ivtlr infer`: node bench/serve-serial.mjs FOLDER REQUESTS.json THREADS
import fs from 'node:fs';
import { setNumThreads } from '@ivtlr/torch';
import { answer } from '../packages/ivtlr/dist/engine/ask.js';
import { openModelFolder } from '../packages/ivtlr/dist/engine/loaded-model.js';

const [folder, file, threads] = process.argv.slice(2);
setNumThreads(Number(threads));
const opened = openModelFolder(folder);
const results = [];
for (const { image, question, maxTokens } of JSON.parse(fs.readFileSync(file, 'utf8'))) {
  const asked = {
    images: [{ kind: 'encoded', bytes: Buffer.from(image, 'base64'), name: 'picture' }],
    ...{ question, choices: [] },
  };
  const started = performance.now();
  let first = null;
  let tokens = 0;
  let promptTokens = 0;
  for await (const event of answer(opened, asked, { maxNewTokens: maxTokens })) {
    if (event.type === 'text-delta') first ??= (performance.now() - started) / 1000;
    if (event.type === 'end') {
      tokens = event.answer.tokens.length;
      promptTokens = event.answer.promptIds.length;
    }
  }
  results.push({ seconds: (performance.now() - started) / 1000, first, tokens, promptTokens });
}
console.log(JSON.stringify(results.slice(1))); // the first one warms up
