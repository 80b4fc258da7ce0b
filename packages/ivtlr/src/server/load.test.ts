/** The server under load: many at once, clients that go away, an engine that is killed or stopped, limits, and the end. */
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  chatBody,
  errorOf,
  isAlive,
  type Puzzle,
  post,
  puzzle,
  readStream,
  serveDominoes,
  until,
} from '../../../../test/served-model.ts';
import { Random } from '../random.ts';
import type { ChatResponse } from './protocol.ts';
import type { Serving } from './serve.ts';

let puzzles: Puzzle[];
beforeAll(async () => {
  puzzles = await Promise.all(Array.from({ length: 16 }, (_, seed) => puzzle(seed)));
});

let served: Serving | null = null;
afterEach(async () => {
  await served?.stop(0);
  served = null;
});

const idle = ({ engines: [engine] }: Serving) =>
  engine!.inHand === 0 && engine!.queued === 0 && engine!.stats.running === 0;

/** What a request may ask for. */
function variant(random: Random): Record<string, unknown> {
  const ablation = [undefined, 'zero-latents', 'random-patches', 'text-zeroed', 'no-latent-text'][random.below(5)];
  return {
    max_tokens: 2 + random.below(30),
    seed: random.below(4),
    ivtlr: { ...(ablation && { ablation }), ...(random.below(2) && { latents: random.below(5) }), trace: 'picks' },
  };
}

/** Text and picks. */
async function askWhole(url: string, body: unknown, signal?: AbortSignal) {
  const response = await post(url, body, signal ? { signal } : {});
  if (response.status !== 200) return { status: response.status, ...(await errorOf(response)) };
  const [choice] = ((await response.json()) as ChatResponse).choices;
  return { status: 200, text: choice!.message.content, picks: choice!.ivtlr!.steps!.map(({ picked }) => picked) };
}

async function askStream(url: string, body: object, signal: AbortSignal) {
  const response = await post(url, { ...body, stream: true }, { signal });
  if (response.status !== 200) return { status: response.status, ...(await errorOf(response)) };
  const events = await readStream(response);
  const last = events.at(-1) as { error?: { code: string; message: string; type: string } };
  if (last !== ('[DONE]' as unknown)) return { status: 200, ...last.error! };
  const chunks = events.slice(0, -1) as unknown as import('./protocol.ts').ChatChunk[];
  return {
    status: 200,
    text: chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join(''),
    picks: chunks.flatMap(({ choices }) => choices[0]?.ivtlr?.steps ?? []).map(({ picked }) => picked),
  };
}

test('200 requests that come and go at random: every answer is the one it gets alone, and nothing stays behind', async () => {
  served = await serveDominoes({ limits: { rows: 8, pieceTokens: 10 } });
  const { url } = served;
  const random = new Random(1);
  const bodies = Array.from({ length: 20 }, (_, i) => chatBody(puzzles[i % 16]!, variant(random)));
  const alone: Awaited<ReturnType<typeof askWhole>>[] = [];
  for (const body of bodies) alone.push(await askWhole(url, body));
  expect(alone.every(({ status }) => status === 200)).toBe(true);
  let answered = 0;
  let broken = 0;
  const one = async (which: number, leaves: number | null, streams: boolean) => {
    const control = new AbortController();
    if (leaves !== null) setTimeout(() => control.abort(), leaves);
    try {
      const ask = streams ? askStream : askWhole;
      expect(await ask(url, bodies[which]!, control.signal)).toEqual(alone[which]);
      answered++;
    } catch (error) {
      if (!control.signal.aborted) throw error;
      broken++;
    }
  };
  // 64 at once; whoever ends makes room for the next.
  const plan = Array.from({ length: 200 }, () => {
    const leaves = random.below(2) ? random.below(400) : null;
    return [random.below(bodies.length), leaves, random.below(2) === 0] as const;
  });
  await Promise.all(
    Array.from({ length: 64 }, async () => {
      for (let next = plan.pop(); next; next = plan.pop()) await one(...next);
    }),
  );
  expect(answered + broken).toBe(200);
  expect(answered).toBeGreaterThan(80);
  expect(broken).toBeGreaterThan(10);
  await until(() => idle(served!), 'every row is free');
  expect(served.engines[0]!.restarts).toBe(0);
  expect(await askWhole(url, bodies[0])).toEqual(alone[0]);
  expect(served.server.active).toBe(0);
});

test('a client that goes away frees its row within one step', async () => {
  served = await serveDominoes({ maxNewTokens: 200, limits: { rows: 1 } });
  const { url, engines } = served;
  const engine = engines[0]!;
  const control = new AbortController();
  // Without end: latent steps are none, and the model then writes until its limit.
  const body = chatBody(puzzles[0]!, { stream: true, max_tokens: 150, ivtlr: { trace: 'full' } });
  const response = await post(url, body, { signal: control.signal });
  await response.body!.getReader().read();
  const next = askWhole(url, chatBody(puzzles[1]!));
  control.abort();
  expect((await next).status).toBe(200);
  await until(() => idle(served!), 'the row is free');
  expect(engine.restarts).toBe(0);
  // The one that left is counted as well, and each once.
  const counted = async () => {
    const text = await (await fetch(`${url}/metrics`)).text();
    return text.split('\n').filter((line) => line.startsWith('ivtlr:http_requests_total{route="/v1/chat/completions"'));
  };
  await until(async () => (await counted()).length === 2, 'both are counted');
  expect((await counted()).map((line) => /status=.*/.exec(line)![0]).sort()).toEqual([
    'status="200"} 1',
    'status="499"} 1',
  ]);
});

describe('the engine dies or hangs', () => {
  for (const [signal, hangMs] of [
    ['SIGKILL', 30_000],
    ['SIGSTOP', 3000],
  ] as const) {
    test(`${signal} under load: what it had is answered with 503 or an error event, the rest goes on`, async () => {
      served = await serveDominoes({ engine: { hangMs }, limits: { rows: 4 } });
      const { url, engines } = served;
      const engine = engines[0]!;
      const alone = await Promise.all(puzzles.slice(0, 4).map((each) => askWhole(url, chatBody(each))));
      for (let round = 0; round < 3; round++) {
        const pid = engine.pid!;
        const asked = Array.from({ length: 24 }, (_, i) => {
          const ask = i % 2 ? askStream : askWhole;
          return ask(url, chatBody(puzzles[i % 4]!), AbortSignal.timeout(60_000));
        });
        await until(() => engine.stats.running > 0, 'the batch runs');
        process.kill(pid, signal);
        const given = await Promise.all(asked);
        const lost = given.filter((answer) => 'code' in answer && answer.code === 'engine_restarting');
        for (const answer of lost) if (answer.status !== 200) expect(answer.status).toBe(503);
        expect(lost.length).toBeGreaterThan(0);
        expect(lost.length).toBeLessThanOrEqual(8);
        given.forEach((answer, i) => {
          if (!lost.includes(answer)) expect(answer).toEqual(alone[i % 4]);
        });
        expect(engine.restarts).toBe(round + 1);
        expect(isAlive(pid)).toBe(false);
        await until(async () => (await fetch(`${url}/ready`)).status === 200, 'it is ready again');
      }
    });
  }

  test('while it is away, /ready says so and questions wait', async () => {
    served = await serveDominoes();
    const { url, engines } = served;
    const engine = engines[0]!;
    process.kill(engine.pid!, 'SIGKILL');
    await until(() => engine.state !== 'ready', 'the death is seen');
    const ready = await fetch(`${url}/ready`);
    expect([ready.status, (await errorOf(ready)).message]).toEqual([503, expect.stringContaining('loading')]);
    expect((await fetch(`${url}/health`)).status).toBe(200);
    expect((await askWhole(url, chatBody(puzzles[0]!))).status).toBe(200);
  });
});

describe('limits', () => {
  test('a full queue is 429 with the time to wait; what is in it is answered', async () => {
    served = await serveDominoes({ engine: { maxQueue: 3 }, limits: { rows: 1 } });
    const { url } = served;
    const given = await Promise.all(
      Array.from({ length: 32 }, () =>
        post(url, chatBody(puzzles[0]!)).then(async (response) => ({ response, body: await response.json() })),
      ),
    );
    const refused = given.filter(({ response }) => response.status === 429);
    // One runs, four are read ahead, three wait.
    expect(32 - refused.length).toBeGreaterThanOrEqual(8);
    expect(refused.length).toBeGreaterThan(0);
    for (const { response, body } of refused) {
      expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0);
      expect(body).toMatchObject({ error: { type: 'rate_limit_error', code: 'queue_full' } });
    }
    expect(given.every(({ response }) => [200, 429].includes(response.status))).toBe(true);
  });

  test('more answers than there is ever room for are a 400 that says how many there are', async () => {
    served = await serveDominoes({ engine: { maxQueue: 2 }, limits: { rows: 1 } });
    const ask = (n: number) => post(served!.url, chatBody(puzzles[0]!, { n, max_tokens: 1 }));
    const refused = await ask(16);
    expect([refused.status, await errorOf(refused)]).toMatchObject([
      400,
      { param: 'n', message: 'n: this server takes at most 7 answers to a question' },
    ]);
    expect((await ask(7)).status).toBe(200);
  });

  test('a small budget of keys and values: questions take turns, and one that never fits is told so', async () => {
    served = await serveDominoes({ limits: { rows: 16, cacheBytes: 400_000 } });
    const { url, engines } = served;
    const engine = engines[0]!;
    const given = await Promise.all(
      puzzles.slice(0, 8).map((each) => askWhole(url, chatBody(each, { max_tokens: 20 }))),
    );
    expect(given.map(({ status }) => status)).toEqual(Array(8).fill(200));
    expect(engine.stats.cacheBytes).toBeLessThanOrEqual(400_000);
    const large = await askWhole(url, chatBody(puzzles[0]!, { ivtlr: { latents: 60, patches: 2 } }));
    expect(large).toMatchObject({ status: 400, message: expect.stringContaining('MiB for keys and values') });
  });

  test('keys: needed, compared, and each with its own rate and number of requests', async () => {
    const keys = ['first-key-123', 'second-key-123'];
    served = await serveDominoes({ keys, keyLimits: { ratePerMinute: 3, concurrent: 2 } });
    const { url } = served;
    const ask = (key?: string, body: unknown = chatBody(puzzles[0]!)) =>
      post(url, body, { headers: key === undefined ? {} : { authorization: `Bearer ${key}` } });
    expect(await errorOf(await ask())).toMatchObject({ type: 'authentication_error', code: 'missing_api_key' });
    const wrong = await ask('first-key-124');
    expect([wrong.status, wrong.headers.get('www-authenticate')]).toEqual([401, 'Bearer']);
    for (const path of ['/v1/models', '/api/puzzle', '/api/runs'])
      expect((await fetch(`${url}${path}`)).status).toBe(401);
    for (const path of ['/health', '/ready', '/metrics']) expect((await fetch(`${url}${path}`)).status).toBe(200);
    const three = await Promise.all([ask(keys[0]), ask(keys[0]), ask(keys[0])]);
    expect(three.map(({ status }) => status).sort()).toEqual([200, 200, 429]);
    expect(await errorOf(three.find(({ status }) => status === 429)!)).toMatchObject({ code: 'concurrency_limit' });
    expect((await ask(keys[0], {})).status).toBe(400);
    const late = await ask(keys[0]);
    expect([late.status, (await errorOf(late)).code]).toEqual([429, 'rate_limit']);
    expect(Number(late.headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await ask(keys[1])).status).toBe(200);
    // Who has no key is told so before the body is read.
    const large = await post(url, 'x'.repeat(2 ** 21));
    expect(large.status).toBe(401);
  });

  test('an answer that takes too long is 504, and its row is free', async () => {
    served = await serveDominoes({ requestTimeoutMs: 1 });
    const answer = await askWhole(served.url, chatBody(puzzles[0]!));
    expect(answer).toMatchObject({ status: 504, type: 'timeout_error' });
    await until(() => idle(served!), 'the row is free');
  });

  test('bodies that come in at the same time are bounded in bytes', async () => {
    served = await serveDominoes({ maxBody: 2 ** 20 });
    const port = Number(new URL(served.url).port);
    const { connect } = await import('node:net');
    const head = 'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n';
    const slow = Array.from({ length: 16 }, (_, i) => {
      const socket = connect(port, '127.0.0.1').on('error', () => {});
      socket.write(`${head}${i % 2 ? 'content-length: 1048576' : 'transfer-encoding: chunked'}\r\n\r\n`);
      socket.write(i % 2 ? '{' : '1\r\n{\r\n');
      return socket;
    });
    const ask = async () => (await askWhole(served!.url, chatBody(puzzles[0]!))).status;
    const ready = () => slow.every((socket) => socket.bytesWritten > 100 && !socket.pending);
    await until(ready, 'all have begun');
    // What is announced and does not come locks nobody out.
    for (let i = 0; i < 20; i++) expect(await ask()).toBe(200);
    slow.forEach((socket, i) => {
      const rest = 'x'.repeat(1_048_570);
      socket.write(i % 2 ? rest : `${rest.length.toString(16)}\r\n${rest}\r\n`);
    });
    await until(async () => (await ask()) === 429, 'no more are read');
    for (const socket of slow) socket.destroy();
    await until(async () => (await ask()) === 200, 'there is room again');
  });

  test('a request that does not come to its end is given up', async () => {
    served = await serveDominoes({ receiveTimeoutMs: 300 });
    const { connect } = await import('node:net');
    const socket = connect(Number(new URL(served.url).port), '127.0.0.1');
    socket.write(
      'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{',
    );
    let text = '';
    socket.on('data', (data) => {
      text += data;
    });
    await new Promise((resolve) => socket.once('close', resolve));
    expect(text).toMatch(/^HTTP\/1.1 408 /);
    expect(text).toContain('timeout_error');
    const metrics = async () => (await fetch(`${served!.url}/metrics`)).text();
    const line = 'http_requests_total{route="/v1/chat/completions",status="408"} 1';
    await until(async () => (await metrics()).includes(line), 'it is counted');
  });
});

describe('the end', () => {
  test('draining: what is under way is answered, new questions are refused', async () => {
    served = await serveDominoes({ limits: { rows: 2 } });
    const { url } = served;
    const under = Array.from({ length: 12 }, (_, i) => askWhole(url, chatBody(puzzles[i]!)));
    await until(() => served!.server.active === 12, 'all are under way');
    const stopped = served.stop(30_000);
    const refused = await post(url, chatBody(puzzles[0]!));
    expect([refused.status, (await errorOf(refused)).code]).toEqual([503, 'server_stopping']);
    expect((await fetch(`${url}/ready`)).status).toBe(503);
    expect((await Promise.all(under)).map(({ status }) => status)).toEqual(Array(12).fill(200));
    const { pid } = served.engines[0]!;
    await stopped;
    served = null;
    expect(isAlive(pid!)).toBe(false);
    await expect(fetch(`${url}/health`)).rejects.toThrow();
  });

  test('a deadline that passes: what is left is answered with an error', async () => {
    served = await serveDominoes({ limits: { rows: 1 } });
    const { url } = served;
    let ended = 0;
    const under = Array.from({ length: 40 }, async (_, i) => {
      const answer = await askWhole(url, chatBody(puzzles[i % 16]!));
      ended++;
      return answer;
    });
    // Whoever has not come in yet finds a closed door, and where they come in slowly the first ones have ended before the last ones are here.
    await until(() => served!.server.active + ended >= 40, 'all have come in');
    await served.stop(20);
    served = null;
    const given = await Promise.all(under);
    const stopped = given.filter((answer) => 'code' in answer && answer.code === 'server_stopping');
    expect(stopped.length).toBeGreaterThan(0);
    expect(given.every(({ status }) => status === 200 || status === 503)).toBe(true);
  });
});
