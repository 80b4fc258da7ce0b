/** The HTTP server: OpenAI's chat API, what monitors ask, and the files of the browser app. */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import type { AddressInfo, Socket } from 'node:net';
import { Transform } from 'node:stream';
import fastifyStatic from '@fastify/static';
import fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type HTTPMethods,
  LogController,
  type RequestPayload,
} from 'fastify';
import type { Logger } from 'pino';
import { UserError } from '../errors.ts';
import { addChatRoute } from './chat-route.ts';
import { HttpError } from './http-error.ts';
import { addModelRoutes } from './model-routes.ts';
import { openApi } from './openapi.ts';
import { addPuzzleRoute } from './puzzle-route.ts';
import { addRunRoutes } from './runs-route.ts';
import { type BodyReading, Doorkeeper, type Service, type ServiceOptions } from './service.ts';

export interface ServerOptions extends ServiceOptions {
  host: string;
  /** 0: any that is free. */
  port: number;
  /** Largest body of a request in bytes. */
  maxBody: number;
  /** A request whose head and body have not come after so long is given up. */
  receiveTimeoutMs: number;
  logger: Logger;
  /** Of this program, for /openapi.json. */
  version: string;
  /** Folder of the built browser app; null where there is none. */
  app: string | null;
}

/** Only what this server itself gives is loaded, and no other page may frame it. */
const CSP = [
  "default-src 'self'",
  "img-src 'self' data: blob:",
  "media-src 'self' blob:",
  "worker-src 'self' blob:",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** For errors that are sent when the server ends. */
const LAST_WORDS_MS = 2000;

/** Largest bodies that may be read at the same time. */
const BODIES = 16;

export class Server {
  readonly #app: FastifyInstance;
  readonly #door: Doorkeeper;
  readonly #options: ServerOptions;

  /** Listens. @throws UserError when the address is not of this machine, or the port is taken */
  static async listen(options: ServerOptions): Promise<Server> {
    const server = new Server(options);
    const { host, port } = options;
    try {
      await server.#app.listen({ host, port });
    } catch (error) {
      await server.#app.close();
      throw new UserError(`cannot listen on ${host}, port ${port}: ${whyNot(error as NodeJS.ErrnoException)}`);
    }
    return server;
  }

  private constructor(options: ServerOptions) {
    this.#options = options;
    this.#door = new Doorkeeper(options.keys, BODIES * options.maxBody);
    this.#app = fastify({
      loggerInstance: options.logger,
      logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'id' }),
      bodyLimit: options.maxBody,
      requestTimeout: options.receiveTimeoutMs,
      http: {
        headersTimeout: options.receiveTimeoutMs,
        connectionsCheckingInterval: Math.min(5000, options.receiveTimeoutMs / 2),
      },
      forceCloseConnections: true,
      return503OnClosing: true,
      requestIdHeader: false,
      genReqId: ({ headers }) => {
        const given = headers['x-request-id'];
        return typeof given === 'string' && /^[\w.-]{1,64}$/.test(given) ? given : randomUUID();
      },
      clientErrorHandler: brokenRequest,
      frameworkErrors: (error, request, reply) => {
        reply.raw.once('close', () => this.#record(request as FastifyRequest, reply as FastifyReply));
        reply.header('x-request-id', request.id);
        answerError(error, request as FastifyRequest, reply as FastifyReply);
      },
    }) as unknown as FastifyInstance;
    // JSON alone is read. A page of another site can send plain text here without asking, JSON it cannot.
    this.#app.removeContentTypeParser('text/plain');
    this.#hooks();
    this.#routes();
  }

  get url(): string {
    const { address, port, family } = this.#app.server.address() as AddressInfo;
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
  }

  /** Takes nothing new, waits for what is under way, at most so long, and closes. */
  async drain(deadlineMs: number): Promise<void> {
    await this.#door.drain(deadlineMs);
    await Promise.all(this.#options.models.map(({ engine }) => engine.close()));
    // Errors that the engine's end gave are still on their way to the clients: to whoever reads them, not to who never does.
    await this.#door.drain(LAST_WORDS_MS);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await this.#app.close();
  }

  get active(): number {
    return this.#door.active;
  }

  #hooks(): void {
    const app = this.#app;
    app.addHook('onRequest', async (request, reply) => {
      reply.raw.once('close', () => this.#record(request, reply));
      reply.header('x-request-id', request.id);
      reply.header('x-content-type-options', 'nosniff');
      reply.header('content-security-policy', CSP);
      reply.header('referrer-policy', 'no-referrer');
      if (this.#door.draining) reply.header('connection', 'close');
      if (/^\/(v1|api)\//.test(request.routeOptions.url ?? '')) this.#door.admit(request);
    });
    app.addHook('preParsing', (request, reply, payload, next) => {
      const { 'content-length': length, 'transfer-encoding': encoding } = request.headers;
      if (length === undefined && encoding === undefined) return next(null, payload);
      const reading = this.#door.readBody();
      payload.once('end', reading.done);
      payload.once('close', reading.done);
      const parts = counted(payload, reading);
      // Of a body that was refused the rest may still come: it is read, or the connection would hang, and not kept.
      reply.raw.once('finish', () => {
        reading.done();
        parts.resume();
      });
      next(null, parts);
    });
    app.setErrorHandler<FastifyError>(answerError);
    app.setNotFoundHandler((request, reply) => {
      const path = request.url.split('?')[0]!;
      const message = `there is no ${request.method} ${path.slice(0, 200)} here; /openapi.json lists what there is`;
      return reply.status(404).send(new HttpError(404, message, { code: 'not_found' }).body);
    });
  }

  /** Counts a request that has ended, and writes it into the log. */
  #record(request: FastifyRequest, reply: FastifyReply): void {
    const { method, ip, raw } = request;
    const route = request.routeOptions.url ?? 'none';
    const unfinished = LATE.has(raw.socket) ? 408 : 499;
    const status = reply.raw.writableFinished ? reply.raw.statusCode : unfinished;
    this.#options.metrics.requests.inc({ route, status: String(status) });
    request.log.info({ method, route, status, ip, ms: Math.round(reply.elapsedTime * 10) / 10 }, 'request');
  }

  #routes(): void {
    const app = this.#app;
    const taken = new Map<string, Set<string>>(); // methods by path
    app.addHook('onRoute', ({ url, method }) => {
      const methods = taken.get(url) ?? new Set();
      for (const each of [method].flat()) methods.add(each);
      taken.set(url, methods);
    });
    const service: Service = { ...this.#options, enter: (request) => this.#door.enter(request) };
    addModelRoutes(app, service, this.#door);
    addChatRoute(app, service);
    addPuzzleRoute(app, service);
    addRunRoutes(app, service);
    app.get('/openapi.json', () => openApi(this.#options.version));
    for (const [url, set] of [...taken]) {
      const methods = [...set];
      const others = METHODS.filter((method) => !methods.includes(method));
      app.route({ url, method: others, handler: (request, reply) => otherMethod(request, reply, methods) });
    }
    const { app: files } = this.#options;
    if (files !== null && existsSync(files)) app.register(fastifyStatic, { root: files, index: 'index.html' });
    else
      app.get('/', (_, reply) =>
        reply.type('text/plain').send('ivtlr serve: POST /v1/chat/completions; /openapi.json lists the rest\n'),
      );
  }
}

/** The same body, whose parts are counted as they come. */
function counted(payload: RequestPayload, reading: BodyReading): Transform {
  const parts = new Transform({
    transform(part: Buffer, _, next) {
      try {
        reading.take(part.length);
        next(null, part);
      } catch (error) {
        next(error as HttpError);
      }
    },
  });
  payload.once('error', (error) => parts.destroy(error));
  payload.pipe(parts);
  parts.once('close', () => payload.resume());
  return parts;
}

const METHODS: HTTPMethods[] = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE'];

function otherMethod(request: FastifyRequest, reply: FastifyReply, methods: readonly string[]): never {
  reply.header('allow', methods.join(', '));
  const path = request.url.split('?')[0]!;
  throw new HttpError(405, `${path.slice(0, 200)} takes ${methods.join(' and ')}, not ${request.method}`, {
    code: 'method_not_allowed',
  });
}

function whyNot({ code, message }: NodeJS.ErrnoException): string {
  if (code === 'EADDRINUSE') return 'another program does; choose another --port, or 0 for any that is free';
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') return 'this machine has no such address';
  if (code === 'EACCES') return 'this user may not; choose a --port above 1023';
  return message;
}

function answerError(error: FastifyError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const known = httpErrorOf(error);
  if (!known) request.log.error({ err: { name: error.name, message: error.message, stack: error.stack } });
  const answer =
    known ?? new HttpError(500, 'something went wrong in the server; its log says what', { code: 'internal_error' });
  if (answer.retryAfter !== null) reply.header('retry-after', String(answer.retryAfter));
  if (answer.status === 401) reply.header('www-authenticate', 'Bearer');
  return reply.status(answer.status).send(answer.body);
}

/** Errors of ours, and those of fastify that a request causes. */
function httpErrorOf(error: FastifyError | HttpError): HttpError | null {
  if (error instanceof HttpError) return error;
  const { code, message, statusCode = 500 } = error;
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE')
    return new HttpError(413, 'the body is larger than this server takes', { code: 'body_too_large' });
  if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
    return new HttpError(415, 'the body should be JSON, with the header "content-type: application/json"', {
      code: 'unsupported_media_type',
    });
  if (statusCode < 400 || statusCode >= 500) return null;
  return new HttpError(statusCode, `the request cannot be read: ${message}`, { code: 'bad_request' });
}

/** Connections whose request did not come in time. */
const LATE = new WeakSet<Socket>();

/** Answers what is no HTTP request, or did not come in time. */
function brokenRequest(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const late = error.code === 'ERR_HTTP_REQUEST_TIMEOUT';
  if (late) LATE.add(socket);
  const tooLong = error.code === 'HPE_HEADER_OVERFLOW';
  const [status, reason, message] = late
    ? [408, 'Request Timeout', 'the request did not come in time']
    : tooLong
      ? [431, 'Request Header Fields Too Large', 'the headers are too long']
      : [400, 'Bad Request', 'this is no HTTP request'];
  const body = JSON.stringify(new HttpError(status as number, message as string).body);
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
}
