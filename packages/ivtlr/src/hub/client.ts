/** The two requests to the hub that a download needs: which files a revision has, and the bytes of one. */
import { EnvHttpProxyAgent, fetch, type Response } from 'undici';
import { UserError } from '../errors.ts';
import type { HubSettings } from './settings.ts';

export type RepoKind = 'datasets' | 'models';

export interface HubFile {
  /** Relative, with slashes. */
  path: string;
  size: number;
  /** Name of the blob: SHA-256 of the bytes for large files, git's SHA-1 for small ones. */
  hash: string;
}

export interface Listing {
  commit: string;
  files: HubFile[];
}

/** A failure that may pass: a dropped connection, a busy server. `waitSeconds` is what the server asked for. */
export class TransientError extends Error {
  constructor(
    message: string,
    readonly waitSeconds = 0,
  ) {
    super(message);
  }
}

/** Silence of this length counts as a dropped connection. */
export const SILENCE_MS = 60_000;

/** What no sound hub goes beyond: bytes of one page of a listing, pages, files, redirects in a row. */
const MAX_JSON = 64 * 2 ** 20;
const MAX_PAGES = 1000;
const MAX_FILES = 100_000;
const MAX_REDIRECTS = 10;

export class HubClient {
  readonly #settings: Pick<HubSettings, 'endpoint' | 'token'>;
  readonly #kind: RepoKind;
  readonly #repo: string;
  readonly #connections = proxyAgent();

  constructor(settings: Pick<HubSettings, 'endpoint' | 'token'>, kind: RepoKind, repo: string) {
    this.#settings = settings;
    this.#kind = kind;
    this.#repo = repo;
  }

  /**
   * Commit and files of a branch, tag or commit.
   * @throws UserError when there is none, or a token is needed; TransientError when trying again may help.
   */
  async list(revision: string): Promise<Listing> {
    const api = `${this.#settings.endpoint}/api/${this.#kind}/${this.#repo}`;
    const info = await this.#json(`${api}/revision/${encodeURIComponent(revision)}`, revision);
    const commit = (info.body as { sha?: unknown } | null)?.sha;
    if (typeof commit !== 'string' || !/^[0-9a-f]{40}$/.test(commit)) {
      throw new UserError(`${api} did not name the commit of ${revision}; is HF_ENDPOINT a hub?`);
    }
    const files: HubFile[] = [];
    let page: string | null = `${api}/tree/${commit}?recursive=true`;
    for (let pages = 1; page; pages++) {
      const { body, next }: Page = await this.#json(page, revision);
      if (!Array.isArray(body)) throw new UserError(`${page} is no list of files; is HF_ENDPOINT a hub?`);
      for (const entry of body) if (isFileEntry(entry, page)) files.push(checkFile(entry, page));
      if (files.length > MAX_FILES || (next && pages === MAX_PAGES)) {
        throw new UserError(
          `${api} lists more than ${MAX_FILES} files or ${MAX_PAGES} pages; is HF_ENDPOINT a hub, and ${this.#repo} the right name?`,
        );
      }
      page = next;
    }
    return { commit, files };
  }

  /** Starts reading a file at a byte. The answer's status is 200 (from the start, whatever was asked) or 206. */
  async open(commit: string, file: HubFile, from: number, signal: AbortSignal): Promise<Response> {
    const prefix = this.#kind === 'models' ? '' : `${this.#kind}/`;
    const path = file.path.split('/').map(encodeURIComponent).join('/');
    const url = `${this.#settings.endpoint}/${prefix}${this.#repo}/resolve/${commit}/${path}`;
    return this.#get(url, commit, from > 0 ? { range: `bytes=${from}-` } : {}, [200, 206, 416], signal);
  }

  async #json(url: string, revision: string): Promise<Page> {
    const response = await this.#get(url, revision, {}, [200]);
    const bytes = await readBounded(response, url);
    const next = this.#nextPage(response.headers.get('link'));
    try {
      return { body: JSON.parse(new TextDecoder().decode(bytes)) as unknown, next };
    } catch {
      throw new UserError(`${url} did not answer in JSON; is HF_ENDPOINT a hub?`);
    }
  }

  /**
   * Listings of many files come in pages. The next one is asked of our own endpoint, even when a mirror passes on links to the hub it copies: the
   * token must not go elsewhere.
   */
  #nextPage(link: string | null): string | null {
    const next = link && /<([^>]+)>\s*;\s*rel="?next"?/.exec(link)?.[1];
    if (!next) return null;
    const { endpoint } = this.#settings;
    const address = URL.parse(next, endpoint);
    if (!address) throw new UserError(`the hub names a next page that is no address: ${shorten(next)}`);
    return `${new URL(endpoint).origin}${address.pathname}${address.search}`;
  }

  async #get(
    url: string,
    revision: string,
    extra: Record<string, string>,
    fine: number[],
    signal = AbortSignal.timeout(SILENCE_MS),
  ): Promise<Response> {
    const { token, endpoint } = this.#settings;
    // Without `identity`, sizes and ranges would be those of a compressed stream.
    const headers: Record<string, string> = { 'accept-encoding': 'identity', ...extra };
    if (token) headers.authorization = `Bearer ${token}`;
    let at = url;
    for (let redirects = 0; ; redirects++) {
      let response: Response;
      try {
        response = await fetch(at, { headers, signal, redirect: 'manual', dispatcher: this.#connections });
      } catch (error) {
        const message = `cannot reach ${new URL(at).origin}: ${reason(error)}`;
        throw isPermanent(error) ? new UserError(message) : new TransientError(message);
      }
      if (fine.includes(response.status)) return response;
      await response.body?.cancel();
      const location = response.headers.get('location');
      if (location === null || ![301, 302, 303, 307, 308].includes(response.status)) {
        throw this.#explain(response, url, revision, new URL(at).origin !== new URL(endpoint).origin);
      }
      const to = URL.parse(location, at);
      if (!to || !/^https?:$/.test(to.protocol) || to.username || to.password) {
        throw new UserError(`${url} redirects to what is no plain web address: ${shorten(location)}`);
      }
      if (redirects === MAX_REDIRECTS) throw new UserError(`${url} redirects more than ${MAX_REDIRECTS} times`);
      // Large files lie on other servers, whose links are signed: the token is for the hub alone.
      if (to.origin !== new URL(endpoint).origin) delete headers.authorization;
      at = to.href;
    }
  }

  #explain({ status, statusText, headers }: Response, url: string, revision: string, elsewhere: boolean): Error {
    const { token, endpoint } = this.#settings;
    const code = headers.get('x-error-code');
    const detail = shorten(headers.get('x-error-message') ?? '');
    const page = `${endpoint}/${this.#kind === 'models' ? '' : 'datasets/'}${this.#repo}`;
    // Signed links to where large files lie run out; asking again gives a new one.
    if (elsewhere) return new TransientError(`the hub's store answered ${status} ${statusText}`.trim());
    const said = detail ? ` (the hub says: ${detail})` : '';
    if (status === 429 || status === 408 || status >= 500) {
      const wait = Number(headers.get('retry-after'));
      return new TransientError(`the hub answered ${status} ${statusText}`.trim(), wait > 0 && wait < 600 ? wait : 0);
    }
    if (status === 401 || status === 403) {
      if (code === 'GatedRepo') {
        return new UserError(
          `${this.#repo} is gated: ask for access at ${page}, then set HF_TOKEN to your token${said}`,
        );
      }
      return new UserError(
        token
          ? `the hub refuses ${this.#repo} for this token: it may not exist, be private, or the token may be wrong; see ${page}${said}`
          : `the hub wants a token for ${this.#repo}: it may be private or not exist; set HF_TOKEN, or see ${page}${said}`,
      );
    }
    if (status === 404) {
      if (code === 'RevisionNotFound') return new UserError(`${this.#repo} has no revision ${revision}; see ${page}`);
      return new UserError(`the hub has no ${url.slice(endpoint.length)}; see ${page}${said}`);
    }
    return new UserError(`${url} answered ${status} ${statusText}${said}`);
  }
}

interface Page {
  body: unknown;
  next: string | null;
}

/** Connections as HTTPS_PROXY, HTTP_PROXY and NO_PROXY want them (also in small letters); to this machine itself always directly. */
function proxyAgent(): EnvHttpProxyAgent {
  for (const name of ['http_proxy', 'HTTP_PROXY', 'https_proxy', 'HTTPS_PROXY']) {
    const value = process.env[name];
    // The value may hold a password, so it is not shown.
    if (value && !/^https?:$/.test(URL.parse(value)?.protocol ?? ''))
      throw new UserError(`${name} should be the address of a proxy, such as http://proxy.example:3128`);
  }
  const direct = process.env.no_proxy ?? process.env.NO_PROXY ?? '';
  return new EnvHttpProxyAgent({ noProxy: direct === '*' ? direct : `${direct},localhost,127.0.0.1,[::1]` });
}

/** The bytes of an answer that has to fit into memory. */
async function readBounded(response: Response, url: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  try {
    for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
      length += chunk.length;
      if (length > MAX_JSON) break;
      chunks.push(chunk);
    }
  } catch (error) {
    throw new TransientError(reason(error));
  }
  if (length > MAX_JSON)
    throw new UserError(`${url} answers with more than ${MAX_JSON >> 20} MiB; is HF_ENDPOINT a hub?`);
  return Buffer.concat(chunks);
}

/** Folders are passed over; a file has yet to be checked. */
function isFileEntry(entry: unknown, source: string): boolean {
  const type = (entry as { type?: unknown } | null)?.type;
  if (typeof type !== 'string') throw new UserError(`${source} lists something that is no file: ${show(entry)}`);
  return type === 'file';
}

/** Names come from outside and become paths, so they may not lead out of the folder. */
function checkFile(entry: unknown, source: string): HubFile {
  const { path, size, oid, lfs } = entry as { path?: unknown; size?: unknown; oid?: unknown; lfs?: { oid?: unknown } };
  const hash = lfs ? lfs.oid : oid;
  const sound =
    typeof path === 'string' &&
    path !== '' &&
    !path.includes('\\') &&
    !path.includes('\0') &&
    path.split('/').every((part) => part !== '' && part !== '.' && part !== '..') &&
    typeof size === 'number' &&
    Number.isSafeInteger(size) &&
    size >= 0 &&
    typeof hash === 'string' &&
    (lfs ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/).test(hash);
  if (!sound) throw new UserError(`${source} lists a file with an unusable name, size or hash: ${show(entry)}`);
  return { path: path as string, size: size as number, hash: hash as string };
}

/** Failures that the next try would meet as well: certificates, addresses, and a proxy that refuses. */
function isPermanent(error: unknown): boolean {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  const { code = '', message } = inner as NodeJS.ErrnoException;
  return (
    /^(CERT_|ERR_TLS|ERR_SSL|ERR_INVALID|UND_ERR_INVALID_ARG|UNABLE_TO_)|SELF_SIGNED/.test(code) ||
    /^Proxy response \(4\d\d\)/.test(message)
  );
}

function show(entry: unknown): string {
  try {
    return shorten(JSON.stringify(entry));
  } catch {
    return 'an entry nested too deeply';
  }
}

/** Text of a server, short enough for a message. */
function shorten(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}..` : text;
}

/** The innermost cause; fetch itself only says "fetch failed". */
export function reason(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  const { code, message } = inner as NodeJS.ErrnoException;
  return message || code || String(inner);
}
