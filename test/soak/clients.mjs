// Clients of a server under load: whole and streamed answers, readers that are slow, and requests that mean harm.
import { request } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { crc32, deflateSync } from 'node:zlib';

/**
 * Asks and waits for the answer.
 * @returns {Promise<{ text?: string, code?: string, status: number }>} the text of the answer, or the code of the error in its place
 * @throws when there is neither: the connection broke, or an error says nothing
 */
export async function ask(url, body, { stream = false, signal } = {}) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify({ ...body, stream }),
    signal,
  });
  return outcome(response.status, await response.text());
}

/** The same, but the request is sent and the answer read a little at a time. */
export function askSlowly(url, body) {
  return new Promise((resolve, reject) => {
    const text = JSON.stringify({ ...body, stream: true });
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    const options = { method: 'POST', headers, agent: false };
    const sent = request(`${url}/v1/chat/completions`, options, async (response) => {
      response.once('error', reject);
      let got = '';
      while (!response.readableEnded && !response.destroyed) {
        got += response.read(Math.min(64, response.readableLength || 64)) ?? '';
        await pause(20);
      }
      try {
        resolve(outcome(response.statusCode, got));
      } catch (error) {
        reject(error);
      }
    });
    sent.once('error', reject);
    void (async () => {
      for (let at = 0; at < text.length && !sent.destroyed; at += 1000) {
        sent.write(text.slice(at, at + 1000));
        await pause(20);
      }
      sent.end();
    })();
  });
}

function outcome(status, text) {
  const codeOf = (said) => {
    if (typeof said.error?.message !== 'string' || said.error.message === '')
      throw new Error(`an error that says nothing: ${status} ${text.slice(-300)}`);
    return said.error.code ?? said.error.type;
  };
  if (status !== 200) return { status, code: codeOf(JSON.parse(text)) };
  if (!text.startsWith('data: ')) return { status, text: JSON.parse(text).choices[0].message.content };
  const events = text
    .trimEnd()
    .split('\n\n')
    .map((line) => line.slice('data: '.length));
  const last = events.pop();
  if (last !== '[DONE]') return { status, code: codeOf(JSON.parse(last)) };
  return { status, text: events.map((event) => JSON.parse(event).choices[0]?.delta.content ?? '').join('') };
}

/** Requests that no server should suffer from, by what is wrong with them; each should get a 4xx that says so, or be harmless. @param {object} body a good one */
export function hostileBodies(body) {
  const [{ content }] = body.messages;
  const good = Buffer.from(content[0].image_url.url.split(',')[1], 'base64');
  const withUrl = (url) => ({
    ...body,
    messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }, content[1]] }],
  });
  const withBytes = (bytes, type = 'png') => withUrl(`data:image/${type};base64,${bytes.toString('base64')}`);
  const withText = (text) => ({ ...body, messages: [{ role: 'user', content: [content[0], { type: 'text', text }] }] });
  const flipped = Buffer.from(good);
  for (let at = 60; at < flipped.length - 20; at += 37) flipped[at] ^= 0x5a;
  return {
    'picture bomb, 30000x30000 pixels': withBytes(png(30000, 30000, Buffer.alloc(1 << 20))),
    'picture bomb, more data than pixels': withBytes(png(2, 2, Buffer.alloc(64 << 20))),
    'picture cut in half': withBytes(good.subarray(0, good.length >> 1)),
    'picture with flipped bits': withBytes(flipped),
    'picture of no pixels': withBytes(png(0, 0, Buffer.alloc(0))),
    'JPEG of noise': withBytes(Buffer.concat([Buffer.from([0xff, 0xd8, 0xff, 0xe0]), noise(5000)]), 'jpeg'),
    'SVG that reads a file': withBytes(
      Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
      'svg+xml',
    ),
    'no base64': withUrl('data:image/png;base64,@@@@'),
    'address of this machine': withUrl('http://127.0.0.1/a.png'),
    'words without end': withText('why '.repeat(200_000)),
    'special tokens': withText('What is <|image_pad|>?'),
    'broken JSON': '{"messages": [',
    'deep JSON': `{"messages": ${'['.repeat(50_000)}${']'.repeat(50_000)}}`,
    'latent steps without end': { ...body, ivtlr: { ...body.ivtlr, latents: 1e9 } },
    'a million answers': { ...body, n: 1_000_000 },
    'patches that are none': { ...body, ivtlr: { ...body.ivtlr, force: [[99]] } },
  };
}

function png(width, height, raw) {
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const chunk = (type, data) => {
    const inner = Buffer.concat([Buffer.from(type), data]);
    const around = Buffer.alloc(8);
    around.writeUInt32BE(data.length, 0);
    around.writeUInt32BE(crc32(inner), 4);
    return Buffer.concat([around.subarray(0, 4), inner, around.subarray(4)]);
  };
  const signature = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
  return Buffer.concat([
    signature,
    chunk('IHDR', head),
    chunk('IDAT', deflateSync(raw)),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function noise(size) {
  let state = 1;
  return Buffer.from(
    Array.from({ length: size }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state >>> 24;
    }),
  );
}
