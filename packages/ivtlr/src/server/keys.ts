/** API keys and what each may do: requests a minute and at a time. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { UserError } from '../errors.ts';
import { readText } from '../files.ts';
import { HttpError } from './http-error.ts';

export interface KeyLimits {
  /** Requests a minute; null: no limit. */
  ratePerMinute: number | null;
  /** Requests under way; null: no limit. */
  concurrent: number | null;
}

interface Caller {
  /** What logs call it: no part of the key. */
  name: string;
  digest: Buffer;
  /** Requests it may still make, filled up as time passes. */
  left: number;
  filled: number;
  running: number;
}

/** Reads a file of keys, one a line; blank lines and those that begin with # do not count. @throws UserError for a file without a usable key */
export function readKeys(path: string): string[] {
  const lines = readText(path, 'API keys').split(/\r?\n/);
  const keys = lines.map((line) => line.trim()).filter((line) => line !== '' && !line.startsWith('#'));
  if (keys.length === 0) throw new UserError(`${path} holds no key; write one a line`);
  const odd = keys.findIndex((key) => !/^[\x21-\x7e]{8,512}$/.test(key));
  if (odd >= 0) throw new UserError(`${path}: key ${odd + 1} should have 8 to 512 characters of ASCII without blanks`);
  return keys;
}

export class Keys {
  readonly #callers: Caller[];
  readonly #open: boolean;
  readonly #limits: KeyLimits;

  /** @param keys null: everybody may ask, and the limits are for all together */
  constructor(keys: readonly string[] | null, limits: KeyLimits) {
    this.#open = keys === null;
    this.#limits = limits;
    const now = performance.now();
    this.#callers = (keys ?? ['']).map((key) => {
      const digest = hash(key);
      const name = keys === null ? 'anyone' : digest.toString('hex').slice(0, 8);
      return { name, digest, left: limits.ratePerMinute ?? 0, filled: now, running: 0 };
    });
  }

  /** Who sends the header; every key is compared, each in constant time. @throws HttpError 401 */
  caller(authorization: string | undefined): Caller {
    if (this.#open) return this.#callers[0]!;
    const key = /^Bearer +(\S+) *$/i.exec(authorization ?? '')?.[1];
    if (key === undefined)
      throw new HttpError(401, 'an API key is needed: send it as "Authorization: Bearer KEY"', {
        code: 'missing_api_key',
      });
    const digest = hash(key);
    let found: Caller | null = null;
    for (const caller of this.#callers) if (timingSafeEqual(caller.digest, digest)) found = caller;
    if (!found) throw new HttpError(401, 'the API key is not known here', { code: 'invalid_api_key' });
    return found;
  }

  /** Counts a request in; call the result once when it has ended. @throws HttpError 429 beyond a limit */
  enter(caller: Caller): () => void {
    const { ratePerMinute, concurrent } = this.#limits;
    if (concurrent !== null && caller.running >= concurrent)
      throw new HttpError(429, `${caller.running} requests of this key are under way already, the most it may have`, {
        code: 'concurrency_limit',
        retryAfter: 1,
      });
    if (ratePerMinute !== null) {
      const now = performance.now();
      caller.left = Math.min(ratePerMinute, caller.left + ((now - caller.filled) / 60_000) * ratePerMinute);
      caller.filled = now;
      if (caller.left < 1) {
        const wait = Math.ceil(((1 - caller.left) / ratePerMinute) * 60);
        throw new HttpError(429, `this key may make ${ratePerMinute} requests a minute`, {
          code: 'rate_limit',
          retryAfter: wait,
        });
      }
      caller.left--;
    }
    caller.running++;
    return () => {
      caller.running--;
    };
  }
}

function hash(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}
