/** A hub for tests: the two routes a download needs, with every trouble a real one makes. */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const COMMIT = 'c0ffee0000000000000000000000000000c0ffee';

/** Time for what was sent to arrive: a connection that is cut takes with it what the other side has not read. */
const CUT_DELAY_MS = 150;

export interface Trouble {
  /** Large files come from here when set; its requests are logged with the prefix `store`. */
  store?: boolean;
  /** Connections of a file are cut after this many bytes, as often as `cuts` says. */
  cutAfter?: number;
  cuts?: number;
  /** Answer 200 with everything, whatever range was asked. */
  ignoreRange?: boolean;
  /** Answer a range with another one. */
  wrongRange?: boolean;
  /** This many answers carry wrong bytes. */
  wrongBytes?: number;
  /** The token to be shown. */
  token?: string;
  gated?: boolean;
  /** This many answers are 503. */
  busy?: number;
  /** This many signed links have run out. */
  expired?: number;
  /** Files per page of the listing. */
  pageSize?: number;
  /** Replaces entries of the listing. */
  listing?: unknown;
  /** Replaces the answer that names the commit. */
  revision?: unknown;
  /** A listing that never ends: page after page, or one page of bytes without an end. */
  endless?: 'pages' | 'bytes';
  /** Where everything but the address it names itself is redirected to. */
  redirect?: string;
}

export interface Hub {
  url: string;
  storeUrl: string;
  /** The one repository it has. */
  repo: string;
  trouble: Trouble;
  /** `GET /path bytes=..` and whether a token came along. */
  log: string[];
  files: Map<string, Buffer>;
  close(): Promise<void>;
}

/** Files whose name ends in .parquet count as large. */
export async function startHub(files: Record<string, Buffer>): Promise<Hub> {
  const hub: Hub = {
    url: '',
    storeUrl: '',
    repo: 'some/data',
    trouble: {},
    log: [],
    files: new Map(Object.entries(files)),
    close,
  };
  const servers: Server[] = [];
  const listen = async (handler: (request: IncomingMessage, response: ServerResponse) => void) => {
    const server = createServer(handler);
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  };
  hub.url = await listen((request, response) => {
    note(hub, '', request);
    const { redirect } = hub.trouble;
    if (redirect === undefined || new URL(request.url!, hub.url).pathname === redirect) answer(hub, request, response);
    else response.writeHead(307, { location: redirect }).end();
  });
  hub.storeUrl = await listen((request, response) => {
    note(hub, `store `, request);
    if (hub.trouble.expired) {
      hub.trouble.expired--;
      response.writeHead(403).end();
    } else if (request.headers.authorization) response.writeHead(400).end('a signed link takes no token');
    else sendFile(hub, decodeURIComponent(request.url!.slice(1)), request, response);
  });
  return hub;

  async function close(): Promise<void> {
    for (const server of servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }
}

function note(hub: Hub, prefix: string, request: IncomingMessage): void {
  const { range, authorization } = request.headers;
  hub.log.push(`${prefix}${request.url}${range ? ` ${range}` : ''}${authorization ? ' token' : ''}`);
}

function answer(hub: Hub, request: IncomingMessage, response: ServerResponse): void {
  const { trouble } = hub;
  const url = new URL(request.url!, hub.url);
  const fail = (status: number, code = '', message = '') =>
    response.writeHead(status, { 'x-error-code': code, 'x-error-message': message }).end();
  if (trouble.busy) {
    trouble.busy--;
    return void response.writeHead(503).end();
  }
  if (trouble.token && request.headers.authorization !== `Bearer ${trouble.token}`) {
    return void fail(401, trouble.gated ? 'GatedRepo' : 'RepoNotFound', 'Access is restricted');
  }
  const [, api, , owner, name, what, revision] = url.pathname.split('/');
  if (api === 'api') {
    if (`${owner}/${name}` !== hub.repo) return void fail(404, 'RepoNotFound');
    if (!['main', 'v1', COMMIT].includes(revision!)) return void fail(404, 'RevisionNotFound');
    if (what !== 'revision') return void sendPage(hub, url, response);
    return void response.end(JSON.stringify(trouble.revision === undefined ? { sha: COMMIT } : trouble.revision));
  }
  const [path = ''] = url.pathname.split(`/${hub.repo}/resolve/${COMMIT}/`).slice(1);
  if (!hub.files.has(decodeURIComponent(path))) return void fail(404, 'EntryNotFound');
  if (trouble.store && path.endsWith('.parquet')) {
    return void response.writeHead(302, { location: `${hub.storeUrl}/${path}` }).end();
  }
  sendFile(hub, decodeURIComponent(path), request, response);
}

function sendPage(hub: Hub, url: URL, response: ServerResponse): void {
  const { pageSize = 100, listing } = hub.trouble;
  if (listing !== undefined) return void response.end(JSON.stringify(listing));
  if (hub.trouble.endless === 'bytes') return void endlessBytes(response);
  if (hub.trouble.endless === 'pages') {
    const next = `${url.pathname}?cursor=${Number(url.searchParams.get('cursor') ?? 0) + 1}`;
    return void response.writeHead(200, { link: `<${next}>; rel="next"` }).end('[]');
  }
  const entries = [...hub.files].map(([path, bytes]) => ({
    type: 'file',
    path,
    size: bytes.length,
    oid: gitHash(bytes),
    ...(path.endsWith('.parquet') && {
      lfs: { oid: createHash('sha256').update(bytes).digest('hex'), size: bytes.length },
    }),
  }));
  const from = Number(url.searchParams.get('cursor') ?? 0);
  const all = [{ type: 'directory', path: 'data', oid: gitHash(Buffer.alloc(0)), size: 0 }, ...entries];
  const rest = from + pageSize < all.length;
  url.searchParams.set('cursor', String(from + pageSize));
  // As a mirror does: the link names the hub it copies.
  if (rest) response.setHeader('link', `<https://hub.invalid${url.pathname}${url.search}>; rel="next"`);
  response.end(JSON.stringify(all.slice(from, from + pageSize)));
}

function endlessBytes(response: ServerResponse): void {
  const blanks = Buffer.alloc(1 << 20, ' ');
  const more = () => {
    while (!response.destroyed && response.write(blanks));
  };
  response.on('drain', more);
  more();
}

function sendFile(hub: Hub, path: string, request: IncomingMessage, response: ServerResponse): void {
  const { trouble } = hub;
  let bytes = hub.files.get(path)!;
  if (trouble.wrongBytes) {
    trouble.wrongBytes--;
    bytes = Buffer.from(bytes).fill(0x21, 0, 1);
  }
  const asked = trouble.ignoreRange ? undefined : /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1];
  const start = Number(asked ?? 0);
  response.writeHead(asked === undefined ? 200 : 206, {
    'content-length': bytes.length - start,
    ...(asked !== undefined && {
      'content-range': `bytes ${trouble.wrongRange ? start + 1 : start}-${bytes.length - 1}/${bytes.length}`,
    }),
  });
  if (trouble.cuts && bytes.length - start > trouble.cutAfter!) {
    trouble.cuts--;
    response.write(bytes.subarray(start, start + trouble.cutAfter!), () =>
      setTimeout(() => response.destroy(), CUT_DELAY_MS),
    );
    return;
  }
  response.end(bytes.subarray(start));
}

export function gitHash(bytes: Uint8Array): string {
  return createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
}
