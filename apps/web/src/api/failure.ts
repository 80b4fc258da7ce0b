/** Why a request had no answer, in words for a person: what happened, and what to do about it. */

export type FailureKind =
  | 'offline'
  | 'key'
  | 'picture'
  | 'request'
  | 'missing'
  | 'slow'
  | 'busy'
  | 'restarting'
  | 'server'
  | 'cut';

export class Failure extends Error {
  override name = 'Failure';
  readonly kind: FailureKind;
  /** One short line. */
  readonly title: string;

  /** @param detail whole sentences: what the server said, what would help */
  constructor(kind: FailureKind, title: string, detail: string) {
    super(detail);
    this.kind = kind;
    this.title = title;
  }
}

interface Said {
  message: string;
  type: string;
  param: string | null;
  code: string | null;
}

/**
 * @param body text of the answer, an `ErrorBody` if the server is ours
 * @param retryAfter header Retry-After, in seconds
 */
export function failureOfStatus(status: number, body: string, retryAfter: string | null): Failure {
  return describe(status, readError(body), Number(retryAfter) || null);
}

/** An error inside a stream that began well. @param data the event's data @returns null when it is no error */
export function failureOfEvent(data: unknown): Failure | null {
  const said = errorIn(data);
  return said && describe(statusOfType(said.type), said, null);
}

/** What `fetch` and reading its body throw. */
export function failureOfThrown(error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (globalThis.navigator?.onLine === false)
    return new Failure('offline', 'This device is offline', 'Connect it again, then try again.');
  return new Failure('offline', 'The server cannot be reached', 'Check that `ivtlr serve` is running, then try again.');
}

function describe(status: number, said: Said | null, retryAfter: number | null): Failure {
  const message = sentence(said?.message ?? '');
  const again = retryAfter
    ? `Try again in ${retryAfter} ${retryAfter === 1 ? 'second' : 'seconds'}.`
    : 'Try again soon.';
  const make = (kind: FailureKind, title: string, ...detail: string[]) =>
    new Failure(kind, title, detail.filter((part) => part !== '' && part !== `${title}.`).join(' '));
  if (status === 401 || status === 403)
    return make('key', 'The server wants an API key', message, 'Enter it under “Key”, at the top of the page.');
  if (status === 429) {
    const title = /queue/i.test(`${said?.code} ${message}`) ? 'The queue is full' : 'Too many requests at once';
    return make('busy', title, message, again);
  }
  if (status === 503) return make('restarting', 'The engine is starting or restarting', message, again);
  if (status === 408 || status === 504) return make('slow', 'The answer took too long', message, again);
  if (status === 413)
    return make(
      'picture',
      'The picture is too large',
      message,
      'Take a smaller one, or cut out the part that matters.',
    );
  if (status === 404) return make('missing', 'The server does not have this', message);
  if (status >= 500) return make('server', 'The server failed', message, again);
  const words = `${said?.param ?? ''} ${said?.code ?? ''} ${message}`;
  // Image tokens that are forced or forbidden are no trouble with the picture.
  const aboutPicture = !said?.param?.startsWith('ivtlr') && /image|picture/i.test(words);
  return aboutPicture
    ? make('picture', 'The picture was refused', message)
    : make('request', 'The server refused the question', message || `It answered with status ${status}.`);
}

function statusOfType(type: string): number {
  if (type === 'authentication_error') return 401;
  if (type === 'rate_limit_error') return 429;
  if (type === 'overloaded_error') return 503;
  if (type === 'timeout_error') return 504;
  // An engine that died is started again.
  if (type === 'engine_error') return 503;
  return type === 'invalid_request_error' ? 400 : 500;
}

function readError(body: string): Said | null {
  try {
    return errorIn(JSON.parse(body));
  } catch {
    return null;
  }
}

function errorIn(data: unknown): Said | null {
  const said = (data as { error?: Partial<Said> } | null)?.error;
  if (typeof said?.message !== 'string') return null;
  return { message: said.message, type: said.type ?? '', param: said.param ?? null, code: said.code ?? null };
}

function sentence(text: string): string {
  const trimmed = text.trim();
  if (trimmed === '') return '';
  const first = trimmed[0]!.toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
