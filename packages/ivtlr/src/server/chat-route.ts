/** POST /v1/chat/completions: whole answers, or a stream of server-sent events. */
import { randomInt, randomUUID } from 'node:crypto';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { questionOf } from './chat-question.ts';
import { ChatRun, type ChatRunOptions } from './chat-run.ts';
import { type ParsedChat, parseChat } from './chat-schema.ts';
import { bytesOf, type EngineInfo, type EngineQuestion, type SentPicture } from './engine-messages.ts';
import { badRequest, HttpError } from './http-error.ts';
import { pictureBytes } from './pictures.ts';
import type { ChatChunk } from './protocol.ts';
import { findModel, type Service } from './service.ts';

/** Bytes of a stream that a client may leave unread before it counts as gone. */
const MAX_UNREAD = 8 * 2 ** 20;

export function addChatRoute(app: FastifyInstance, service: Service): void {
  app.post('/v1/chat/completions', (request, reply) => answer(service, request, reply));
}

async function answer(service: Service, request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  const leave = service.enter(request);
  const client = new Client(reply, service.requestTimeoutMs);
  try {
    const body = parseChat(request.body);
    const { id: model, engine } = findModel(service.models, body.model);
    const questions = await readQuestions(service, engine.info, body);
    if (client.gone) return reply.hijack();
    engine.requireRoom(questions.length, bytesOf(questions[0]!));
    const options = {
      ...{ engine, metrics: service.metrics, id: `chatcmpl-${randomUUID()}`, model },
      ...{ questions, ablation: body.ivtlr?.ablation ?? null },
    };
    return body.stream
      ? await stream(client, reply, options, body.stream_options?.include_usage ?? false)
      : await whole(client, reply, options);
  } finally {
    client.done();
    leave();
  }
}

async function readQuestions(service: Service, info: EngineInfo, body: ParsedChat): Promise<EngineQuestion[]> {
  const asked = questionOf(body, info, service.maxNewTokens);
  const pictures: SentPicture[] = [];
  let other: SentPicture | null = null;
  const { maxBytes } = service.pictures;
  for (const address of [...asked.pictures, ...(asked.other ? [asked.other] : [])]) {
    const picture = { bytes: await pictureBytes(address, service.pictures), name: address.name };
    if (address === asked.other) other = picture;
    else pictures.push(picture);
    if (bytesOf({ pictures, other }) > maxBytes)
      throw badRequest(
        `${address.name}: the pictures have more than ${(maxBytes / 2 ** 20).toFixed(1)} MiB together, the limit of this server`,
        address.name,
        'invalid_image',
      );
  }
  const question: EngineQuestion = { ...asked, pictures, other, stream: body.stream ?? false };
  // The engine's own generator begins alike in every process, so a question without a seed is given one here.
  const { seed = randomInt(2 ** 32) } = question.options;
  return Array.from({ length: body.n ?? 1 }, (_, i) => ({
    ...question,
    options: { ...question.options, seed: (seed + i) % 2 ** 32 },
  }));
}

async function whole(client: Client, reply: FastifyReply, options: ChatRunOptions): Promise<unknown> {
  const run = new ChatRun(options);
  try {
    await client.race(run.done);
  } catch (error) {
    run.cancel();
    if (client.gone) return reply.hijack();
    throw error;
  }
  return run.response;
}

/** The status is decided by the first event, so that an error before it has one of its own. */
async function stream(
  client: Client,
  reply: FastifyReply,
  options: ChatRunOptions,
  withUsage: boolean,
): Promise<unknown> {
  const { raw } = reply;
  let open = false;
  const send = (data: unknown) => {
    if (!open) {
      open = true;
      reply.hijack();
      raw.writeHead(200, {
        ...(reply.getHeaders() as Record<string, string>),
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-cache, no-transform',
        'x-accel-buffering': 'no',
      });
    }
    if (raw.destroyed) return;
    raw.write(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`);
    if (raw.writableLength > MAX_UNREAD) raw.destroy();
  };
  const usage = withUsage ? { usage: null } : {};
  const run = new ChatRun({ ...options, chunk: (chunk: ChatChunk) => send({ ...chunk, ...usage }) });
  try {
    await client.race(run.done);
    if (withUsage) send(run.usageChunk);
    send('[DONE]');
  } catch (error) {
    run.cancel();
    if (client.gone) return reply.hijack();
    if (!open) throw error;
    if (!(error instanceof HttpError)) throw error;
    send(error.body);
  }
  raw.end();
  return reply;
}

/** Whoever waits for an answer: it may go away, and it waits only so long. */
class Client {
  readonly #raw: FastifyReply['raw'];
  readonly #timeout: NodeJS.Timeout;
  #fail: (error: HttpError) => void = () => {};
  #late = false;
  gone = false;
  readonly #timeoutMs: number;

  constructor(reply: FastifyReply, timeoutMs: number) {
    this.#raw = reply.raw;
    this.#timeoutMs = timeoutMs;
    this.#raw.on('close', this.#closed);
    this.#timeout = setTimeout(() => {
      this.#late = true;
      this.#fail(this.#tooLate);
    }, timeoutMs);
  }

  /** Waits for the answer, but not longer than the client does. */
  race(answer: Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#fail = reject;
      if (this.gone) reject(GONE);
      else if (this.#late) reject(this.#tooLate);
      else answer.then(resolve, reject);
    });
  }

  done(): void {
    clearTimeout(this.#timeout);
    this.#raw.off('close', this.#closed);
  }

  get #tooLate(): HttpError {
    return new HttpError(504, `the answer was not ready after ${this.#timeoutMs / 1000} s`, {
      code: 'request_timeout',
    });
  }

  readonly #closed = () => {
    if (this.#raw.writableFinished) return;
    this.gone = true;
    this.#fail(GONE);
  };
}

const GONE = new HttpError(499, 'the client has gone away');
