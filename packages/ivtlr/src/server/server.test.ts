/** What cannot be answered, and every other endpoint, against the bundled model on a real port. */
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fastify from 'fastify';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { chatBody, errorOf, type Puzzle, post, puzzle, serveDominoes } from '../../../../test/served-model.ts';
import type { ChatResponse, ModelList, RunList, RunMetrics } from './protocol.ts';
import { addRunRoutes } from './runs-route.ts';
import type { Serving } from './serve.ts';
import type { Service } from './service.ts';

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
    [
      'an ablation that needs another picture',
      { ...user([text, picture]), ivtlr: { ablation: 'patches-swapped' } },
      400,
      'ivtlr.other_image',
      /another picture; add it as ivtlr\.other_image/,
    ],
    [
      'another picture for nothing',
      { ...user([text, picture]), ivtlr: { other_image: { url: 'PICTURE' } } },
      400,
      'ivtlr.other_image',
      /only the ablations/,
    ],
    [
      'another picture that is damaged',
      { ...user([text, picture]), ivtlr: { ablation: 'text-swapped', other_image: { url: damaged } } },
      400,
      'ivtlr.other_image',
      /ivtlr\.other_image: /,
    ],
    [
      'a picture to pick from that is not there',
      { ...user([text, picture]), ivtlr: { pick_from: 2 } },
      400,
      'ivtlr.pick_from',
      /messages have 1/,
    ],
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
      'ivtlr.latents',
      /positions/,
    ],
    [
      'more patches than the model has positions for',
      { ...user([text, picture]), ivtlr: { patches: 1000 } },
      400,
      'ivtlr.patches',
      /positions|patches/,
    ],
    [
      'a longer text than the model has positions for',
      user([{ type: 'text', text: 'which '.repeat(300) }, picture]),
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
    for (const path of ['/%', '/v1/models/%zz']) {
      const broken = await get(path);
      expect([broken.status, await errorOf(broken)]).toMatchObject([
        400,
        { type: 'invalid_request_error', code: 'bad_request', message: expect.stringContaining('not a valid url') },
      ]);
      expect(broken.headers.get('x-request-id')).not.toBeNull();
    }
  });

  test('the server goes on after all of it', async () => {
    const response = await post(served.url, chatBody(asked));
    expect(((await response.json()) as ChatResponse).choices[0]!.message.content).toMatch(/the answer is/);
    expect(served.engines[0]!.restarts).toBe(0);
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
    expect(first.summary).toMatchObject({ task: '', model: '', mode: '', totalSteps: null });
    const recipe = { task: 'dominoes', mode: 'ivt-lr', model: { config: { model_type: 'qwen2_vl' } } };
    writeFileSync(join(folder, 'runs', 'first', 'run.json'), JSON.stringify({ totalSteps: 9, recipe }));
    const told = { task: 'dominoes', model: 'fresh qwen2_vl', mode: 'ivt-lr', totalSteps: 9 };
    expect(((await (await get('/api/runs')).json()) as RunList).runs).toMatchObject([told]);
  });

  test('runs of a study and linked ones are listed by their paths, what cannot be read is passed over', async () => {
    const runs = mkdtempSync(join(folder, 'more-'));
    const run = (path: string) => {
      mkdirSync(path, { recursive: true });
      writeFileSync(join(path, 'metrics.jsonl'), '{"kind":"step","step":4}\n');
    };
    run(join(runs, 'plain'));
    run(join(runs, 'plain', 'inside'));
    run(join(runs, 'study', 'dominoes', 'seed-1'));
    run(join(runs, 'a', 'b', 'c', 'too-deep'));
    symlinkSync(join(folder, 'secret'), join(runs, 'linked'));
    symlinkSync(runs, join(runs, 'study', 'round'));
    symlinkSync(join(runs, 'nowhere'), join(runs, 'broken'));
    mkdirSync(join(runs, 'odd', 'metrics.jsonl'), { recursive: true });
    writeFileSync(join(runs, 'file'), '');
    const app = fastify();
    addRunRoutes(app, { runs } as Service);
    const get = async (url: string) => (await app.inject(url)).json();
    const { runs: list } = (await get('/api/runs')) as RunList;
    const names = list.map(({ name }) => name).sort();
    expect(names).toEqual(['linked', 'plain', 'study/dominoes/seed-1', 'study/round/linked', 'study/round/plain']);
    for (const path of ['study/dominoes/seed-1', 'study%2Fdominoes%2Fseed-1'])
      expect(await get(`/api/runs/${path}`)).toMatchObject({ summary: { name: 'study/dominoes/seed-1', steps: 4 } });
    for (const path of ['odd', 'study', 'plain/inside', 'plain%2F..%2Flinked', 'study/..%2F..%2Fsecret', '', 'file'])
      expect((await app.inject(`/api/runs/${path}`)).statusCode, path).toBe(404);
    rmSync(runs, { recursive: true });
    expect(await get('/api/runs')).toEqual({ runs: [] });
    expect((await app.inject('/api/runs/plain')).statusCode).toBe(404);
    await app.close();
  });

  test('openapi.json describes every route', async () => {
    const api = (await (await get('/openapi.json')).json()) as { openapi: string; paths: Record<string, unknown> };
    expect(api.openapi).toBe('3.1.0');
    for (const path of ['/v1/chat/completions', '/v1/models/{id}']) expect(Object.keys(api.paths)).toContain(path);
    expect(api.paths['/v1/chat/completions']).toMatchObject({ post: { responses: { 408: {} } } });
    expect(JSON.stringify(api.paths['/v1/chat/completions'])).toContain('"ablation"');
  });
});
