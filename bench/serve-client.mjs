// What bench/serve.mjs asks, and how it asks a server.
import http from 'node:http';
import sharp from 'sharp';
import { fail } from './run.mjs';

/** Distinct pictures, so that none is found in a cache. */
export async function request(seed, maxTokens) {
  const data = Buffer.alloc(280 * 280 * 3);
  let state = seed + 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    data[i] = state >> 16;
  }
  const png = await sharp(data, { raw: { width: 280, height: 280, channels: 3 } })
    .png()
    .toBuffer();
  const words = 'shape colour size place number line corner edge'.split(' ');
  const question = Array.from({ length: 48 }, (_, i) => words[(seed * 7 + i * i) % words.length]).join(' ');
  return { image: png.toString('base64'), question, maxTokens };
}

/**
 * One request, streamed or whole: seconds to the first text and to the end, and what the server itself says. What comes is only read after its end,
 * since this program runs on the same cores.
 */
export async function chat(url, { image, question, maxTokens }, streamed = true) {
  const content = [
    { type: 'image_url', image_url: { url: `data:image/png;base64,${image}` } },
    { type: 'text', text: question },
  ];
  const messages = [{ role: 'user', content }];
  const body = JSON.stringify({
    messages,
    max_tokens: maxTokens,
    ...(streamed && { stream: true, stream_options: { include_usage: true } }),
  });
  const started = performance.now();
  const since = () => (performance.now() - started) / 1000;
  const { status, pieces } = await new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    const request = http.request(`${url}/v1/chat/completions`, { method: 'POST', headers }, (response) => {
      const pieces = [];
      response.on('data', (bytes) => pieces.push({ bytes, at: since() }));
      response.on('end', () => resolve({ status: response.statusCode, pieces }));
      response.on('error', reject);
    });
    request.on('error', reject).end(body);
  });
  const seconds = since();
  if (status !== 200) fail(`the server answered ${status}: ${Buffer.concat(pieces.map(({ bytes }) => bytes))}`);
  if (!streamed) {
    const { usage, choices } = JSON.parse(Buffer.concat(pieces.map(({ bytes }) => bytes)));
    return { seconds, first: seconds, tokens: usage.completion_tokens, told: choices[0].ivtlr.seconds };
  }
  let text = '';
  let first = null;
  let told = null;
  let usage = null;
  const decoder = new TextDecoder();
  for (const { bytes, at } of pieces) {
    const blocks = (text + decoder.decode(bytes, { stream: true })).split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      if (block === 'data: [DONE]') continue;
      const chunk = JSON.parse(block.slice(6));
      if (chunk.error) fail(chunk.error.message);
      if (chunk.choices[0]?.delta.content) first ??= at;
      told ??= chunk.choices[0]?.ivtlr?.seconds ?? null;
      usage = chunk.usage ?? usage;
    }
  }
  return { seconds, first: first ?? seconds, tokens: usage.completion_tokens, prompt: usage.prompt_tokens, told };
}

/** Seconds of processor time that the server's process has taken. */
export async function serverCpu(url) {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(/^ivtlr:server_cpu_seconds (\S+)/m.exec(text)[1]);
}
