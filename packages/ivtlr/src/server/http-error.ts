/** What a request is answered with when it cannot be answered. */
import type { ErrorBody } from './protocol.ts';

export class HttpError extends Error {
  override name = 'HttpError';
  readonly status: number;
  readonly type: string;
  readonly param: string | null;
  readonly code: string | null;
  /** Seconds, for the header Retry-After. */
  readonly retryAfter: number | null;

  constructor(
    status: number,
    message: string,
    more: { type?: string; param?: string | null; code?: string | null; retryAfter?: number | null } = {},
  ) {
    super(message);
    this.status = status;
    this.type = more.type ?? typeOfStatus(status);
    this.param = more.param ?? null;
    this.code = more.code ?? null;
    this.retryAfter = more.retryAfter ?? null;
  }

  get body(): ErrorBody {
    const { message, type, param, code } = this;
    return { error: { message, type, param, code } };
  }
}

/** A 400 that names the field. */
export function badRequest(message: string, param: string | null = null, code: string | null = null): HttpError {
  return new HttpError(400, message, { param, code });
}

function typeOfStatus(status: number): string {
  if (status === 401 || status === 403) return 'authentication_error';
  if (status === 408 || status === 504) return 'timeout_error';
  if (status === 429) return 'rate_limit_error';
  if (status === 503) return 'overloaded_error';
  return status >= 500 ? 'engine_error' : 'invalid_request_error';
}
