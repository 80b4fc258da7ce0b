// A server for developing and testing the app without a model: it speaks the protocol of `ivtlr serve` with made-up answers.
//   node apps/web/test/fake-server.mjs [port]
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { COLOURS, makePuzzle, readPngSize } from './fake-puzzle.mjs';
import { fakeRuns } from './fake-runs.mjs';

const DIST = fileURLToPath(new URL('../../../packages/ivtlr/app/', import.meta.url));
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
export const CSP = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'";

const ABLATIONS = [
  ['full', 'full'],
  ['zero-latents', 'zero latent steps'],
  ['text-zeroed', 'latent text zeroed'],
  ['patches-zeroed', 'patches zeroed'],
  ['patches-swapped', "another sample's patches"],
  ['random-patches', 'random patches'],
  ['no-latent-vision', 'no latent vision (Coconut)'],
];

const ERRORS = {
  401: 'authentication_error',
  400: 'invalid_request_error',
  429: 'rate_limit_error',
  503: 'overloaded_error',
};

/**
 * @param {{ port?: number, key?: string, pause?: number }} options pause in ms between the parts of a stream
 * @returns a promise of `{ url, close, requests, fail }`: `requests` has the bodies of all questions; `fail.next` is what the next
 *   question is refused with, `{ status, message, param, retryAfter }`, or `{ midway: message }` or `{ cut: true }`  inside the stream;
 *   `hold(n)` stops the next answer after n steps until its result is called; `abandoned` has the answers that the reader left early
 */
export async function startFakeServer({ port = 0, key = '', pause = 5 } = {}) {
  const requests = [];
  /** @type {{ next: { status?: number, message?: string, param?: string, retryAfter?: number, midway?: string, cut?: boolean } | null }} */
  const fail = { next: null };
  /** @type {{ after: number, released: Promise<void> } | null} */
  let held = null;
  /** @type {http.ServerResponse[]} */
  const abandoned = [];
  /** The next answer stops after so many steps until the returned function is called. @param {number} after */
  const hold = (after) => {
    /** @type {() => void} */
    let release = () => {};
    held = {
      after,
      released: new Promise((resolve) => {
        release = () => resolve(undefined);
      }),
    };
    return release;
  };
  const runs = fakeRuns();
  const server = http.createServer(async (request, response) => {
    const url = new URL(request.url, 'http://fake');
    const api = /^\/(v1|api)\//.test(url.pathname);
    if (!api) return serveFile(url.pathname, response);
    if (key && request.headers.authorization !== `Bearer ${key}`)
      return refuse(response, { status: 401, message: 'the API key is missing or wrong' });
    if (url.pathname === '/v1/models') return send(response, models());
    if (url.pathname === '/api/puzzle') {
      const puzzle = makePuzzle(Number(url.searchParams.get('seed')));
      return send(response, {
        image: puzzle.image,
        question: puzzle.question,
        choices: puzzle.choices,
        answer: puzzle.answer,
      });
    }
    if (url.pathname === '/api/runs') return send(response, { runs: runs.map(({ summary }) => summary) });
    const run = runs.find(({ summary }) => url.pathname === `/api/runs/${encodeURIComponent(summary.name)}`);
    if (run) {
      const after = Number(url.searchParams.get('after') ?? 0);
      const { lines, ...others } = run;
      return send(response, { ...others, lines: lines.slice(after), next: lines.length });
    }
    if (url.pathname === '/v1/chat/completions') {
      const body = JSON.parse(await text(request));
      requests.push(body);
      const failure = fail.next;
      fail.next = null;
      if (failure?.status) return refuse(response, failure);
      const holding = held;
      held = null;
      response.on('close', () => {
        if (!response.writableEnded) abandoned.push(response);
      });
      const next = async (/** @type {number} */ index) => {
        await wait(pause);
        if (index === holding?.after) await holding.released;
      };
      return answer(body, response, next, failure).catch(() => response.destroy());
    }
    refuse(response, { status: 404, message: `there is no ${url.pathname}` });
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  const close = () =>
    new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  return { url: `http://127.0.0.1:${server.address().port}`, close, requests, fail, hold, abandoned };
}

function models() {
  const model = (id, task, latents, oneImage = true) => ({
    ...{ id, object: 'model', created: 1_700_000_000, owned_by: 'ivtlr' },
    ivtlr: {
      ...{ family: 'qwen2-vl', task, tasks: ['dominoes', 'm3cot', 'scienceqa'], latents, patches: 1, maxTokens: 512 },
      oneImage,
      ablations: ABLATIONS.map(([name, title]) => ({ name, title, otherImage: name.endsWith('-swapped') })),
    },
  });
  const data = [
    model('dominoes', 'dominoes', 3),
    model('dominoes-cot', 'dominoes', 0),
    model('many-pictures', null, 2, false),
  ];
  return { object: 'list', data };
}

function serveFile(pathname, response) {
  const file = path.join(DIST, path.normalize(pathname === '/' ? '/index.html' : pathname));
  if (!file.startsWith(DIST) || !fs.existsSync(file)) return refuse(response, { status: 404, message: 'no such file' });
  response.writeHead(200, {
    'content-type': TYPES[path.extname(file)] ?? 'text/plain',
    'content-security-policy': CSP,
  });
  response.end(fs.readFileSync(file));
}

function send(response, value) {
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(JSON.stringify(value));
}

function refuse(response, { status, message, param = null, code = null, retryAfter }) {
  response.writeHead(status, {
    'content-type': 'application/json',
    ...(retryAfter && { 'retry-after': String(retryAfter) }),
  });
  response.end(JSON.stringify({ error: { message, type: ERRORS[status] ?? 'engine_error', param, code } }));
}

async function text(request) {
  let all = '';
  for await (const piece of request) all += piece;
  return all;
}

async function answer(body, response, next, failure) {
  const { ivtlr = {}, model } = body;
  const parts = body.messages.at(-1).content;
  const urls = parts.filter(({ type }) => type === 'image_url').map(({ image_url }) => image_url.url);
  const question = parts.find(({ type }) => type === 'text').text;
  const thought = think(urls, question, ivtlr, model);
  const written = thought.written.slice(0, body.max_tokens);
  const head = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1_700_000_000, model };
  const write = (choice, more = {}) => {
    const choices = choice ? [{ index: 0, delta: {}, finish_reason: null, logprobs: null, ...choice }] : [];
    response.write(`data: ${JSON.stringify({ ...head, choices, ...more })}\n\n`);
  };
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  write({ delta: { role: 'assistant', content: '' }, ivtlr: thought.seen });
  for (const [index, step] of thought.latents.entries()) {
    await next(index);
    if (response.destroyed) return;
    write({ ivtlr: { steps: [step] } });
  }
  for (const [index, { content, step }] of written.entries()) {
    await next(thought.latents.length + index);
    if (response.destroyed) return;
    if (failure && index === 2) {
      if (failure.midway)
        return response.end(
          `data: ${JSON.stringify({ error: { message: failure.midway, type: 'engine_error', param: null, code: null } })}\n\n`,
        );
      return response.destroy();
    }
    write({ delta: { content }, ivtlr: { steps: [step] } });
  }
  const seconds = { queued: 0.001, image: 0.012, prefill: 0.02, latents: 0.03, decode: 0.05 };
  const settings = {
    latents: thought.latents.length,
    patches: ivtlr.patches ?? 1,
    task: 'dominoes',
    ablation: ivtlr.ablation ?? null,
  };
  write({ finish_reason: written.length < thought.written.length ? 'length' : 'stop', ivtlr: { settings, seconds } });
  const completion_tokens = written.length;
  const usage = { prompt_tokens: 40, completion_tokens, total_tokens: 40 + completion_tokens };
  write(null, { usage: { ...usage, completion_tokens_details: { latent_steps: thought.latents.length } } });
  response.end('data: [DONE]\n\n');
}

/** Follows the puzzle's chain over a picture that this server drew, and looks about in any other. */
function think(urls, question, ivtlr, model) {
  const puzzle = urls.length === 1 ? makePuzzle.byImage(urls[0]) : null;
  let size = 0;
  const images = urls.map((url) => {
    const { width, height } = puzzle ? { width: 112, height: 112 } : readPngSize(url);
    const along = (pixels) => Math.max(1, Math.min(20, Math.round(pixels / 28)));
    const tokenGrid = [along(height), along(width)];
    const image = { firstToken: size, tokenGrid, width, height, crop: { x: 0, y: 0, width, height } };
    size += tokenGrid[0] * tokenGrid[1];
    return image;
  });
  const latentCount = ivtlr.ablation === 'zero-latents' ? 0 : (ivtlr.latents ?? (model === 'dominoes-cot' ? 0 : 3));
  const random = (seed) => Math.abs(Math.sin(seed * 12.9898) * 43758.5453) % 1;
  const targets = puzzle
    ? puzzle.cells
    : Array.from({ length: 8 }, (_, index) => Math.floor(random(index + size) * size));
  let right = !['text-zeroed', 'patches-zeroed', 'patches-swapped', 'no-latent-vision'].includes(ivtlr.ablation);
  const stepOf = (kind, step, target, peak) => {
    const scores = Array.from({ length: size }, (_, token) =>
      token === target ? peak : peak * 0.12 * random(token * 7 + step * 3 + 1),
    );
    const order = scores.map((_, token) => token).sort((a, b) => scores[b] - scores[a]);
    const picked = size === 0 ? [] : order.slice(0, kind === 'latent' ? (ivtlr.patches ?? 1) : 1);
    const sum = scores.reduce((total, score) => total + score, 0);
    const entropy = scores.reduce((total, score) => total - (score / sum) * Math.log(score / sum), 0);
    return {
      step,
      kind,
      picked,
      pickedScores: picked.map((token) => scores[token]),
      scores,
      attentionRatio: peak * 1.4,
      focus: 1 / entropy,
      seconds: 0.01 + 0.004 * random(step),
    };
  };
  const latents = Array.from({ length: latentCount }, (_, step) => {
    const wanted = targets[step % targets.length];
    let target = ivtlr.ablation === 'random-patches' ? Math.floor(random(step + 5) * size) : wanted;
    if (ivtlr.forbid?.[step]?.includes(target)) target = (target + 1) % size;
    if (ivtlr.force?.[step]?.length) target = ivtlr.force[step][0];
    if (target !== wanted) right = false;
    return stepOf('latent', step, target, 0.16 + 0.05 * random(step + 2));
  });
  const { choices = [] } = ivtlr;
  const gold = puzzle ? puzzle.answer.charCodeAt(0) - 65 : 0;
  const picked = right && latentCount === 3 ? gold : (gold + 1) % Math.max(choices.length, 1);
  const said = choices[picked] ?? COLOURS[Math.floor(random(question.length) * COLOURS.length)][0];
  const letter = choices.length ? String.fromCharCode(65 + picked) : said;
  const chain = latentCount === 0 && puzzle ? puzzle.chain : [];
  const words = `${chain.map((link) => `${link}; `).join('')}${said} is ${letter}; Therefore, the answer is ${letter}`;
  const written = (words.match(/\s*\S+/g) ?? []).map((content, index) => ({
    content,
    step: stepOf(
      'token',
      latentCount + index,
      targets[(latentCount + index) % targets.length],
      0.08 + 0.03 * random(index),
    ),
  }));
  const { firstToken: _, ...image } = images[0] ?? {};
  return { seen: images.length > 0 ? { image, images } : {}, latents, written };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await startFakeServer({ port: Number(process.argv[2] ?? 8000), pause: 250 });
  console.log(`fake server: ${url}`);
}
