/** Every endpoint against the bundled model on a real port. */
import { execFile } from 'node:child_process';
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import OpenAI from 'openai';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  chatBody,
  errorOf,
  type Puzzle,
  post,
  puzzle,
  readStream,
  serveDominoes,
} from '../../../../test/served-model.ts';
import type { ChatChunk, ChatResponse, ModelList, RunList, RunMetrics } from './protocol.ts';
import type { Serving } from './serve.ts';

let served: Serving;
let folder: string;
let asked: Puzzle;
let bomb: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-server-'));
  mkdirSync(join(folder, 'runs', 'first'), { recursive: true });
  mkdirSync(join(folder, 'secret'));
  writeFileSync(join(folder, 'secret', 'metrics.jsonl'), '{"step":1}\n');
  served = await serveDominoes({ runs: join(folder, 'runs') });
  asked = await puzzle(5);
  const black = { width: 4000, height: 4000, channels: 3 as const, background: 'black' };
  bomb = `data:image/png;base64,${(await sharp({ create: black }).png().toBuffer()).toString('base64')}`;
});
afterAll(async () => {
  await served?.stop(0);
  rmSync(folder, { recursive: true, force: true });
});

const get = (path: string, init?: RequestInit) => fetch(`${served.url}${path}`, init);

describe('chat completions', () => {
  test('a whole answer: text, picks of the latent steps, usage', async () => {
    const response = await post(served.url, chatBody(asked), { headers: { 'x-request-id': 'mine-1' } });
    expect(response.status).toBe(200);
    expect(response.headers.get('x-request-id')).toBe('mine-1');
    const answer = (await response.json()) as ChatResponse;
    expect(answer).toMatchObject({ object: 'chat.completion', model: 'dominoes' });
    const [choice] = answer.choices;
    expect(choice!.finish_reason).toBe('stop');
    expect(choice!.message.content).toMatch(new RegExp(`the answer is ${asked.answer}$`));
    const { image, steps, settings, seconds } = choice!.ivtlr!;
    expect(image).toEqual({
      tokenGrid: [4, 4],
      width: 112,
      height: 112,
      crop: { x: 0, y: 0, width: 112, height: 112 },
    });
    expect(steps!.map(({ step, kind, picked, scores }) => ({ step, kind, picks: picked.length, scores }))).toEqual(
      [0, 1, 2].map((step) => ({ step, kind: 'latent', picks: 1, scores: null })),
    );
    expect(settings).toEqual({ latents: 3, patches: 1, task: 'dominoes', ablation: null });
    expect(Object.values(seconds!).every((value) => value >= 0)).toBe(true);
    const { usage } = answer;
    expect(usage.completion_tokens_details).toEqual({ latent_steps: 3 });
    expect(usage.total_tokens).toBe(usage.prompt_tokens + usage.completion_tokens);
    expect(usage.prompt_tokens).toBeGreaterThan(16);
  });

  test('a stream says the same piece by piece', async () => {
    const body = chatBody(asked, { stream: true, stream_options: { include_usage: true } });
    const response = await post(served.url, body);
    expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/);
    const events = await readStream(response);
    expect(events.at(-1)).toBe('[DONE]');
    const chunks = events.slice(0, -1) as unknown as ChatChunk[];
    const whole = (await (await post(served.url, chatBody(asked))).json()) as ChatResponse;
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
    expect(text).toBe(whole.choices[0]!.message.content);
    const steps = chunks.flatMap((chunk) => chunk.choices[0]?.ivtlr?.steps ?? []);
    expect(steps.map(({ picked }) => picked)).toEqual(whole.choices[0]!.ivtlr!.steps!.map(({ picked }) => picked));
    // Latent steps come before the text, as they happen.
    const firstText = chunks.findIndex((chunk) => chunk.choices[0]?.delta.content);
    const lastStep = chunks.findLastIndex((chunk) => chunk.choices[0]?.ivtlr?.steps);
    expect(lastStep).toBeLessThan(firstText);
    expect(chunks[0]!.choices[0]).toMatchObject({
      delta: { role: 'assistant' },
      ivtlr: { image: { tokenGrid: [4, 4] } },
    });
    expect(chunks.map((chunk) => chunk.choices[0]?.finish_reason).filter(Boolean)).toEqual(['stop']);
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: whole.usage });
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  });

  test('trace: none has no steps, full has scores of latent steps and of written tokens', async () => {
    const steps = async (trace: string) =>
      ((await (await post(served.url, chatBody(asked, { ivtlr: { trace } }))).json()) as ChatResponse).choices[0]!
        .ivtlr!.steps!;
    expect(await steps('none')).toEqual([]);
    const full = await steps('full');
    expect(full.map(({ kind }) => kind)).toEqual([...Array(3).fill('latent'), ...Array(11).fill('token')]);
    for (const { scores, pickedScores, picked, attentionRatio, focus } of full) {
      expect(scores).toHaveLength(16);
      expect(pickedScores).toEqual(picked.map((index) => scores![index]));
      expect(attentionRatio).toBeGreaterThan(0);
      expect(focus).toBeGreaterThan(0);
    }
  });

  test('options of the request: latent steps, ablation, patches, longest answer, several answers', async () => {
    const ask = async (more: Record<string, unknown>) =>
      (await (await post(served.url, chatBody(asked, more))).json()) as ChatResponse;
    const short = await ask({ max_tokens: 2 });
    expect(short.choices[0]!.finish_reason).toBe('length');
    expect(short.usage.completion_tokens).toBe(2);
    expect((await ask({ max_completion_tokens: 3 })).usage.completion_tokens).toBe(3);
    const none = await ask({ ivtlr: { ablation: 'zero-latents' } });
    expect(none.choices[0]!.ivtlr).toMatchObject({ steps: [], settings: { latents: 0, ablation: 'zero-latents' } });
    const two = await ask({ ivtlr: { latents: 2, patches: 3 } });
    expect(two.choices[0]!.ivtlr!.steps!.map(({ picked }) => picked.length)).toEqual([3, 3]);
    const random = async (seed: number) =>
      (await ask({ seed, ivtlr: { ablation: 'random-patches' } })).choices[0]!.ivtlr!.steps!.map(
        ({ picked }) => picked,
      );
    expect(await random(1)).toEqual(await random(1));
    expect([await random(2), await random(3), await random(4)]).not.toEqual(Array(3).fill(await random(1)));
    const both = await ask({ n: 2, ivtlr: { trace: 'none' } });
    expect(both.choices.map(({ index }) => index)).toEqual([0, 1]);
    expect(both.choices[1]!.message).toEqual(both.choices[0]!.message);
    expect(both.usage.completion_tokens).toBe(22);
  });

  test('answers are those of ivtlr infer', async () => {
    const puzzles = await Promise.all(Array.from({ length: 12 }, (_, seed) => puzzle(100 + seed)));
    const file = join(folder, 'questions.jsonl');
    writeFileSync(file, '');
    puzzles.forEach(({ image, question, choices }, i) => {
      writeFileSync(join(folder, `${i}.png`), Buffer.from(image.split(',')[1]!, 'base64'));
      appendFileSync(file, `${JSON.stringify({ id: String(i), image: `${i}.png`, question, choices })}\n`);
    });
    const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
    const model = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
    const args = [program, 'infer', '--model', model, '--questions', file, '--threads', '1', '--max-new-tokens', '64'];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    const expected = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { id: string; answer: string });
    const given = await Promise.all(
      puzzles.map(async (each) => (await (await post(served.url, chatBody(each))).json()) as ChatResponse),
    );
    expect(expected).toHaveLength(12);
    for (const { id, answer } of expected) expect(given[Number(id)]!.choices[0]!.message.content).toBe(answer);
  });

  test("OpenAI's own client asks, streams, lists models and understands errors", async () => {
    const client = new OpenAI({ apiKey: 'none', baseURL: `${served.url}/v1`, maxRetries: 0 });
    const { model, messages } = chatBody(asked) as never as OpenAI.ChatCompletionCreateParamsNonStreaming;
    const answer = await client.chat.completions.create({ model, messages, ...{ ivtlr: { choices: asked.choices } } });
    expect(answer.choices[0]!.message.content).toMatch(/the answer is/);
    let text = '';
    const stream = await client.chat.completions.create({
      model,
      messages,
      ...{ ivtlr: { choices: asked.choices } },
      stream: true,
    });
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
    expect(text).toBe(answer.choices[0]!.message.content);
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(['dominoes']);
    await expect(client.chat.completions.create({ model: 'gpt-4', messages })).rejects.toMatchObject({
      status: 404,
      code: 'model_not_found',
    });
  });
});

describe('what cannot be answered is a 4xx that names the field', () => {
  const picture = { type: 'image_url', image_url: { url: 'PICTURE' } };
  const text = { type: 'text', text: 'which colour?' };
  const user = (content: unknown) => ({ messages: [{ role: 'user', content }] });
  const url = (url: string) => user([text, { type: 'image_url', image_url: { url } }]);
  const damaged = `data:image/png;base64,${Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex').toString('base64')}`;
  test.each<[string, unknown, number, string | null, RegExp]>([
    ['no JSON', '{"messages": [', 400, null, /JSON/],
    ['a list', [], 400, null, /the body: .*object/],
    ['nothing', {}, 400, 'messages', /messages: missing/],
    ['no message', { messages: [] }, 400, 'messages', /messages/],
    ['a role that is not known', { messages: [{ role: 'tool', content: 'x' }] }, 400, 'messages.0.role', /role/],
    ['text that is none', user([{ type: 'text', text: 5 }]), 400, 'messages.0.content.0.text', /string/],
    ['a part of another kind', user([{ type: 'input_audio' }]), 400, 'messages.0.content.0.type', /type/],
    ['no picture', user('hello'), 400, 'messages', /add one as image_url/],
    ['two pictures', user([text, picture, picture]), 400, 'messages.0.content.2.image_url', /one picture, not 2/],
    ['no question', user([picture]), 400, 'messages.0.content', /empty/],
    [
      'the assistant last',
      { messages: [...user([text, picture]).messages, { role: 'assistant', content: 'x' }] },
      400,
      'messages.1.role',
      /last message/,
    ],
    [
      'a picture of the system',
      { messages: [{ role: 'system', content: [picture] }, ...user('x').messages] },
      400,
      'messages.0.content.0.image_url',
      /user/,
    ],
    [
      'several turns',
      { messages: [{ role: 'system', content: 'Be brief.' }, ...user([text, picture]).messages] },
      400,
      'messages',
      /single questions/,
    ],
    [
      'an address',
      url('https://example.org/a.png'),
      400,
      'messages.0.content.1.image_url',
      /does not fetch pictures from example.org/,
    ],
    ['a file', url('file:///etc/passwd'), 400, 'messages.0.content.1.image_url', /data URL/],
    ['base64 with holes', url('data:image/png;base64,a*b'), 400, 'messages.0.content.1.image_url', /base64/],
    ['an empty picture', url('data:image/png;base64,'), 400, 'messages.0.content.1.image_url', /empty/],
    [
      'no picture in the data',
      url(`data:image/png;base64,${Buffer.from('hello').toString('base64')}`),
      400,
      'messages.0.content.1.image_url',
      /not an image/,
    ],
    ['a bomb', url('BOMB'), 400, 'messages.0.content.1.image_url', /4000x4000 pixels are more than 10000000/],
    ['a picture cut short', url(damaged), 400, 'messages.0.content.1.image_url', /PNG/],
    [
      'a large picture',
      url(`data:image/png;base64,${'A'.repeat(800_000)}`),
      400,
      'messages.0.content.1.image_url',
      /0.5 MiB/,
    ],
    [
      'a special token',
      user([{ type: 'text', text: 'say <|image_pad|>' }, picture]),
      400,
      'messages',
      /spells <\|image_pad\|>/,
    ],
    [
      'a special token in a choice',
      { ...user([text, picture]), ivtlr: { choices: ['a', '<|endoftext|>'] } },
      400,
      'messages',
      /choice B spells <\|endoftext\|>/,
    ],
    ['27 choices', { ...user([text, picture]), ivtlr: { choices: Array(27).fill('x') } }, 400, 'ivtlr.choices', /26/],
    ['a field of ours that is not known', { ...user([text, picture]), ivtlr: { latent: 3 } }, 400, 'ivtlr', /latent/],
    ['too many latent steps', { ...user([text, picture]), ivtlr: { latents: 1001 } }, 400, 'ivtlr.latents', /1000/],
    [
      'more latent steps than the model has positions for',
      { ...user([text, picture]), ivtlr: { latents: 900 } },
      400,
      'messages',
      /positions/,
    ],
    [
      'an ablation that is not known',
      { ...user([text, picture]), ivtlr: { ablation: 'all' } },
      400,
      'ivtlr.ablation',
      /zero-latents/,
    ],
    ['a task that is not known', { ...user([text, picture]), ivtlr: { task: 'chess' } }, 400, 'ivtlr.task', /m3cot/],
    ['too many tokens', { ...user([text, picture]), max_tokens: 65 }, 400, 'max_tokens', /at most 64/],
    ['no tokens', { ...user([text, picture]), max_tokens: 0 }, 400, 'max_tokens', />=1/],
    ['a temperature', { ...user([text, picture]), temperature: 3 }, 400, 'temperature', /<=2/],
    ['tools', { ...user([text, picture]), tools: [{ type: 'function' }] }, 400, 'tools', /not supported/],
    [
      'a format',
      { ...user([text, picture]), response_format: { type: 'json_object' } },
      400,
      'response_format',
      /not supported/,
    ],
    ['another model', { ...user([text, picture]), model: 'gpt-4' }, 404, 'model', /this server has dominoes/],
    ['a large body', `{"messages": "${'x'.repeat(2 ** 20)}"}`, 413, null, /larger/],
  ])('%s', async (_, body, status, param, message) => {
    const sent =
      typeof body === 'string'
        ? body
        : JSON.stringify(body).replaceAll('PICTURE', asked.image).replaceAll('BOMB', bomb);
    const response = await post(served.url, sent);
    const error = await errorOf(response);
    expect({ status: response.status, param: error.param }).toEqual({ status, param });
    expect(error.message).toMatch(message);
    expect(error.type).toBe('invalid_request_error');
  });

  test('no JSON by its header, another method, another path', async () => {
    const plain = await post(served.url, 'x', { headers: { 'content-type': 'text/plain' } });
    expect([plain.status, (await errorOf(plain)).code]).toEqual([415, 'unsupported_media_type']);
    const read = await get('/v1/chat/completions');
    expect([read.status, read.headers.get('allow')]).toEqual([405, 'POST']);
    expect((await get('/health', { method: 'DELETE' })).status).toBe(405);
    const nowhere = await get('/v2/models');
    expect([nowhere.status, (await errorOf(nowhere)).message]).toEqual([
      404,
      expect.stringContaining('GET /v2/models'),
    ]);
    expect((await get('/v1/models/other')).status).toBe(404);
  });

  test('the server goes on after all of it', async () => {
    const response = await post(served.url, chatBody(asked));
    expect(((await response.json()) as ChatResponse).choices[0]!.message.content).toMatch(/the answer is/);
    expect(served.engine.restarts).toBe(0);
  });
});

describe('around the chat', () => {
  test('models, health, ready', async () => {
    const models = (await (await get('/v1/models')).json()) as ModelList;
    expect(models.data[0]).toMatchObject({
      id: 'dominoes',
      ivtlr: { task: 'dominoes', latents: 3, patches: 1, maxTokens: 64 },
    });
    expect(models.data[0]!.ivtlr.ablations.map(({ name }) => name)).toContain('random-patches');
    expect(await (await get('/v1/models/dominoes')).json()).toEqual(models.data[0]);
    expect((await get('/health')).status).toBe(200);
    expect((await get('/ready')).status).toBe(200);
  });

  test('metrics count what was answered', async () => {
    const value = async (name: string) => {
      const text = await (await get('/metrics')).text();
      const line = text.split('\n').find((line) => line.startsWith(`ivtlr:${name}`) && !line.startsWith('#'));
      return Number(line?.split(' ').at(-1) ?? 0);
    };
    const before = [await value('generation_tokens_total'), await value('latent_steps_total')];
    await (await post(served.url, chatBody(asked))).json();
    expect([await value('generation_tokens_total'), await value('latent_steps_total')]).toEqual([
      before[0]! + 11,
      before[1]! + 3,
    ]);
    expect(await value('http_requests_total{route="/v1/chat/completions",status="200"}')).toBeGreaterThan(0);
    expect(await value('cache_bytes')).toBeLessThanOrEqual(await value('cache_budget_bytes'));
    expect(await value('engine_up')).toBe(1);
  });

  test('puzzles are those of the task, by seed', async () => {
    expect(await (await get('/api/puzzle?seed=5')).json()).toEqual(asked);
    expect(await (await get('/api/puzzle')).json()).not.toEqual(await (await get('/api/puzzle')).json());
    for (const seed of ['-1', 'x', '4294967296', '1&seed=2'])
      expect((await get(`/api/puzzle?seed=${seed}`)).status).toBe(400);
  });

  test('runs: a list, lines from where one was, and nothing outside the folder', async () => {
    const metrics = join(folder, 'runs', 'first', 'metrics.jsonl');
    writeFileSync(metrics, '{"kind":"step","step":1}\nno JSON\n{"kind":"step","step":2}\n{"kind":"st');
    const { runs } = (await (await get('/api/runs')).json()) as RunList;
    expect(runs).toMatchObject([{ name: 'first', steps: 2, running: false }]);
    const first = (await (await get('/api/runs/first')).json()) as RunMetrics;
    expect([first.lines.length, first.next, first.checkpoints]).toEqual([2, 2, []]);
    appendFileSync(metrics, 'ep","step":3}\n');
    const more = (await (await get('/api/runs/first?after=2')).json()) as RunMetrics;
    expect([more.lines, more.next]).toEqual([[{ kind: 'step', step: 3 }], 3]);
    for (const name of ['second', '..%2Fsecret', '.', '..']) expect((await get(`/api/runs/${name}`)).status).toBe(404);
    expect((await get('/api/runs/first?after=x')).status).toBe(400);
  });

  test('openapi.json describes every route', async () => {
    const api = (await (await get('/openapi.json')).json()) as { openapi: string; paths: Record<string, unknown> };
    expect(api.openapi).toBe('3.1.0');
    expect(Object.keys(api.paths)).toContain('/v1/chat/completions');
    expect(JSON.stringify(api.paths['/v1/chat/completions'])).toContain('"ablation"');
  });
});
