/** The bundled dominoes model behind a real port, for tests of the server. */
import { readFileSync } from 'node:fs';
import { bundledModel } from '../packages/ivtlr/src/engine/bundled-model.ts';
import type { ErrorBody } from '../packages/ivtlr/src/server/protocol.ts';
import { type ServeOptions, type Serving, serve } from '../packages/ivtlr/src/server/serve.ts';
import { dominoesSample } from '../packages/ivtlr/src/tasks/dominoes/generator.ts';
import { encodePng } from '../packages/ivtlr/src/tasks/make-file.ts';

type Overrides = Partial<Omit<ServeOptions, 'engine'>> & {
  /** Bundled models. */
  names?: readonly string[];
  engine?: Partial<Omit<ServeOptions['engine'], 'limits'>>;
  limits?: Partial<ServeOptions['engine']['limits']>;
};

/** Serves on a free port until `stop`. */
export function serveDominoes({ engine, limits, names = ['dominoes'], ...options }: Overrides = {}): Promise<Serving> {
  const model = { device: 'cpu', deviceSetting: '--device', settings: {}, mergeAdapters: true } as const;
  return serve({
    ...{ version: '0', host: '127.0.0.1', port: 0, app: null, runs: null, logLevel: 'silent' },
    models: names.map((id) => ({ id, model: { ...model, folder: bundledModel(id) } })),
    engine: {
      threads: 1,
      limits: { rows: 16, pieceTokens: 16, cacheBytes: 256 * 2 ** 20, maxPixels: 10_000_000, ...limits },
      ...{ maxQueue: 256, maxQueueBytes: 2 ** 28, hangMs: 30_000, openMs: 120_000 },
      ...engine,
    },
    ...{ keys: null, keyLimits: { ratePerMinute: null, concurrent: null }, maxNewTokens: 64 },
    ...{ maxBody: 2 ** 20, receiveTimeoutMs: 10_000, requestTimeoutMs: 60_000 },
    pictures: { maxBytes: 2 ** 19, allowHosts: [], timeoutMs: 5000 },
    ...options,
  });
}

export interface Puzzle {
  image: string;
  question: string;
  choices: string[];
  answer: string;
}

/** The question of a seed, with its picture as a data URL. */
export async function puzzle(seed: number): Promise<Puzzle> {
  const {
    images: [image],
    question,
    choices,
    answer,
  } = dominoesSample(seed, 'test', 0);
  const png = Buffer.from(await encodePng(image!)).toString('base64');
  return { image: `data:image/png;base64,${png}`, question, choices, answer };
}

/** A request that asks it; `ivtlr` and other fields can be added. */
export function chatBody({ image, question, choices }: Puzzle, more: Record<string, unknown> = {}) {
  const { ivtlr, ...fields } = more;
  return {
    model: 'dominoes',
    messages: [
      {
        role: 'user',
        content: [
          { type: 'image_url', image_url: { url: image } },
          { type: 'text', text: question },
        ],
      },
    ],
    ...fields,
    ivtlr: { choices, ...(ivtlr as object) },
  };
}

export function post(url: string, body: unknown, init: RequestInit & { path?: string } = {}): Promise<Response> {
  const { path = '/v1/chat/completions', headers, ...rest } = init;
  return fetch(`${url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...rest,
  });
}

/** The `data:` lines of a stream, parsed; `[DONE]` as it stands. */
export async function readStream(response: Response): Promise<(Record<string, unknown> | '[DONE]')[]> {
  const text = await response.text();
  return text
    .split('\n\n')
    .filter((block) => block !== '')
    .map((block) => {
      if (!block.startsWith('data: ')) throw new Error(`no event: ${block}`);
      const data = block.slice(6);
      return data === '[DONE]' ? data : (JSON.parse(data) as Record<string, unknown>);
    });
}

export async function errorOf(response: Response): Promise<ErrorBody['error']> {
  return ((await response.json()) as ErrorBody).error;
}

/** Whether a process runs: a stopped one counts, a zombie does not. */
export function isAlive(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

export async function until(look: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (const end = performance.now() + 60_000; !(await look()); ) {
    if (performance.now() > end) throw new Error(`it did not come to this: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
