import { expect, it } from 'vitest';
import { failureOfEvent, failureOfStatus, failureOfThrown } from './failure.ts';

const body = (message: string, more = {}) =>
  JSON.stringify({ error: { message, type: 'invalid_request_error', param: null, code: null, ...more } });

it.each([
  [401, body('the key is wrong'), null, 'key', /API key/, /The key is wrong\. Enter it under “Key”/],
  [429, body('the queue is full'), '7', 'busy', /queue is full/, /^Try again in 7 seconds\.$/],
  [429, body('more than 60 requests a minute'), '1', 'busy', /Too many requests/, /Try again in 1 second\./],
  [
    503,
    body('the engine is loading'),
    null,
    'restarting',
    /starting or restarting/,
    /The engine is loading\. Try again soon\./,
  ],
  [
    400,
    body('not a picture', { param: 'messages.0.content.0.image_url' }),
    null,
    'picture',
    /picture was refused/,
    /^Not a picture\.$/,
  ],
  [
    400,
    body('latents should be 64 at most', { param: 'ivtlr.latents' }),
    null,
    'request',
    /refused the question/,
    /Latents should/,
  ],
  [
    400,
    body('image token 3 is forced twice', { param: 'ivtlr.force' }),
    null,
    'request',
    /refused the question/,
    /Image token 3/,
  ],
  [413, '', null, 'picture', /too large/, /smaller/],
  [404, body('there is no run x'), null, 'missing', /does not have this/, /There is no run x\./],
  [504, body('no answer in 600 s'), null, 'slow', /took too long/, /No answer in 600 s\./],
  [500, '<html>', null, 'server', /server failed/, /Try again soon/],
  [422, 'nonsense', null, 'request', /refused/, /status 422/],
] as const)('status %i in words', (status, text, retryAfter, kind, title, detail) => {
  const failure = failureOfStatus(status, text, retryAfter);
  expect(failure.kind).toBe(kind);
  expect(failure.title).toMatch(title);
  expect(failure.message).toMatch(detail);
});

it('knows an error inside a stream from a chunk', () => {
  expect(failureOfEvent({ choices: [] })).toBeNull();
  expect(failureOfEvent({ error: { message: 'the engine died', type: 'engine_error' } })?.kind).toBe('restarting');
});

it('takes what fetch throws for a server out of reach, and keeps failures', () => {
  expect(failureOfThrown(new TypeError('Failed to fetch')).kind).toBe('offline');
  const failure = failureOfStatus(401, '', null);
  expect(failureOfThrown(failure)).toBe(failure);
});
