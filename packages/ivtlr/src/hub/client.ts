/** The two questions to the hub that a download needs: which files a revision has, and the bytes of one. */
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

export class HubClient {
  readonly #settings: Pick<HubSettings, 'endpoint' | 'token'>;
  readonly #kind: RepoKind;
  readonly #repo: string;

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
    const commit = (info.body as { sha?: unknown }).sha;
    if (typeof commit !== 'string' || !/^[0-9a-f]{40}$/.test(commit)) {
      throw new UserError(`${api} did not name the commit of ${revision}; is HF_ENDPOINT a hub?`);
    }
    const files: HubFile[] = [];
    let page: string | null = `${api}/tree/${commit}?recursive=true`;
    while (page) {
      const { body, next }: Page = await this.#json(page, revision);
      if (!Array.isArray(body)) throw new UserError(`${page} is no list of files; is HF_ENDPOINT a hub?`);
      for (const entry of body) {
        if ((entry as { type?: unknown }).type === 'file') files.push(checkFile(entry, page));
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
    try {
      const body: unknown = await response.json();
      return { body, next: this.#nextPage(response.headers.get('link')) };
    } catch (error) {
      if (error instanceof UserError) throw error;
      if (error instanceof SyntaxError) throw new UserError(`${url} did not answer in JSON; is HF_ENDPOINT a hub?`);
      throw new TransientError(reason(error));
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
    const { pathname, search } = new URL(next, endpoint);
    return `${new URL(endpoint).origin}${pathname}${search}`;
  }

  async #get(
    url: string,
    revision: string,
    extra: Record<string, string>,
    fine: number[],
    signal = AbortSignal.timeout(SILENCE_MS),
  ): Promise<Response> {
    const { token, endpoint } = this.#settings;
    // A redirect to another server (where large files lie) loses the authorization: fetch sees to that.
    // Without `identity`, sizes and ranges would be those of a compressed stream.
    const headers = { 'accept-encoding': 'identity', ...extra, ...(token && { authorization: `Bearer ${token}` }) };
    let response: Response;
    try {
      response = await fetch(url, { headers, signal });
    } catch (error) {
      throw new TransientError(`cannot reach ${endpoint}: ${reason(error)}`);
    }
    if (fine.includes(response.status)) return response;
    const detail = response.headers.get('x-error-message') ?? '';
    await response.body?.cancel();
    throw this.#explain(response, url, revision, detail);
  }

  #explain(
    { status, statusText, headers, redirected }: Response,
    url: string,
    revision: string,
    detail: string,
  ): Error {
    const { token, endpoint } = this.#settings;
    const code = headers.get('x-error-code');
    const page = `${endpoint}/${this.#kind === 'models' ? '' : 'datasets/'}${this.#repo}`;
    // Signed links to where large files lie run out; asking again gives a new one.
    if (redirected && status >= 400)
      return new TransientError(`the hub's store answered ${status} ${statusText}`.trim());
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
  if (!sound)
    throw new UserError(`${source} lists a file with an unusable name, size or hash: ${JSON.stringify(entry)}`);
  return { path: path as string, size: size as number, hash: hash as string };
}

/** The innermost cause; fetch itself only says "fetch failed". */
export function reason(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  const { code, message } = inner as NodeJS.ErrnoException;
  return message || code || String(inner);
}
