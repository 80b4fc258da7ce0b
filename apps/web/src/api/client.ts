/** Requests to the server that serves this page, and to no other. */
import type { ChatChunk, ChatRequest } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { EventReader } from './events.ts';
import { Failure, failureOfEvent, failureOfStatus, failureOfThrown } from './failure.ts';

/** Has an event `lost` whenever the server could not be reached, or a connection to it broke off. */
export const connection = new EventTarget();

async function send(path: string, key: string, init: RequestInit): Promise<Response> {
  // Headers take no other characters.
  if (/[^\x20-\xff]/.test(key)) {
    const detail = 'It has a character that no key has. Enter it again under “Key”, at the top of the page.';
    throw new Failure('key', 'The API key cannot be sent', detail);
  }
  let response: Response;
  try {
    const headers = { ...init.headers, ...(key !== '' && { authorization: `Bearer ${key}` }) };
    response = await fetch(new URL(path, document.baseURI), { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    connection.dispatchEvent(new Event('lost'));
    throw failureOfThrown(error);
  }
  if (response.ok) return response;
  const body = await response.text().catch(() => '');
  throw failureOfStatus(response.status, body, response.headers.get('retry-after'));
}

/** @throws Failure; the signal's reason when it was aborted */
export async function getJson<T>(path: string, key: string, signal?: AbortSignal): Promise<T> {
  const response = await send(path, key, { ...(signal && { signal }) });
  try {
    return (await response.json()) as T;
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure('server', 'The server failed', 'Its answer could not be read.');
  }
}

/**
 * The chunks of a streamed answer as they arrive.
 * @throws Failure, also when the stream ends before its `[DONE]`; the signal's reason when it was aborted
 */
export async function* streamChat(request: ChatRequest, key: string, signal: AbortSignal): AsyncGenerator<ChatChunk> {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const headers = { 'content-type': 'application/json' };
  const response = await send('v1/chat/completions', key, { method: 'POST', headers, body, signal });
  for await (const data of eventsOf(response, signal)) {
    if (data === '[DONE]') return;
    let chunk: unknown;
    try {
      chunk = JSON.parse(data);
    } catch {
      throw new Failure('server', 'The server failed', 'A part of its answer could not be read.');
    }
    const failure = failureOfEvent(chunk);
    if (failure) throw failure;
    yield chunk as ChatChunk;
  }
  throw cutOff();
}

async function* eventsOf(response: Response, signal: AbortSignal): AsyncGenerator<string> {
  const events = new EventReader();
  const decoder = new TextDecoder();
  const reader = response.body!.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw signal.aborted ? error : cutOff();
      });
      if (done) return;
      yield* events.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Whoever stops reading early frees the row on the server.
    reader.cancel().catch(() => {});
  }
}

function cutOff(): Failure {
  connection.dispatchEvent(new Event('lost'));
  return new Failure('cut', 'The connection broke off', 'The answer is not complete. Try again.');
}
