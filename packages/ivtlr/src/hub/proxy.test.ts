/** Downloads through a proxy, which alone knows where the hub is. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type Hub, startHub } from '../../../../test/hub-server.ts';
import { download } from './download.ts';

let hub: Hub;
let proxy: Server;
let address = '';
let cache = '';
/** `host:port authorization` of every tunnel asked for. */
let tunnels: string[] = [];
/** What the proxy answers instead of a tunnel. */
let refusal = '';
beforeEach(async () => {
  hub = await startHub({ 'README.md': Buffer.from('# Data\n') });
  cache = mkdtempSync(join(tmpdir(), 'ivtlr-proxy-'));
  tunnels = [];
  refusal = '';
  proxy = createServer().on('connect', (request, client, head) => {
    tunnels.push(`${request.url} ${request.headers['proxy-authorization'] ?? ''}`.trim());
    if (refusal) return void client.end(`HTTP/1.1 ${refusal}\r\n\r\n`);
    const target = connect(Number(new URL(hub.url).port), '127.0.0.1', () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      target.write(head);
      target.pipe(client).pipe(target);
    });
    for (const side of [target, client]) side.on('error', () => target.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  address = `127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  for (const name of ['http_proxy', 'https_proxy', 'no_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY'])
    vi.stubEnv(name, undefined);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.close();
  proxy.closeAllConnections();
  proxy.close();
  rmSync(cache, { recursive: true, force: true });
});

function get(endpoint: string, onRetry?: (message: string) => void) {
  const settings = { endpoint, cache, token: undefined, offline: false };
  return download({
    ...{ kind: 'datasets', repo: 'some/data', settings, tries: 2, firstWait: 0.001 },
    ...(onRetry && { onRetry }),
  });
}

test('HTTP_PROXY carries everything but what NO_PROXY names, and the user that it names', async () => {
  vi.stubEnv('HTTP_PROXY', `http://me:word@${address}`);
  expect((await get('http://hub.invalid')).files).toBe(1);
  expect(new Set(tunnels)).toEqual(new Set([`hub.invalid:80 Basic ${Buffer.from('me:word').toString('base64')}`]));
  tunnels = [];
  vi.stubEnv('NO_PROXY', 'example.org, .invalid');
  await expect(get('http://hub.invalid')).rejects.toThrow(
    /cannot reach http:\/\/hub\.invalid: .*gave up after 2 tries/,
  );
  expect((await get(hub.url)).files).toBe(1);
  vi.stubEnv('NO_PROXY', '');
  expect((await get(hub.url)).files).toBe(1);
  expect(tunnels).toEqual([]);
});

test('https goes through HTTPS_PROXY', async () => {
  vi.stubEnv('HTTPS_PROXY', `http://${address}`);
  // The hub of this test speaks no TLS, so what counts is who was asked for a tunnel.
  await expect(get('https://hub.invalid')).rejects.toThrow(/cannot reach https:\/\/hub\.invalid/);
  expect(new Set(tunnels)).toEqual(new Set(['hub.invalid:443']));
});

test('a proxy that refuses, or is no address, is said once and without its password', async () => {
  refusal = '407 Proxy Authentication Required';
  vi.stubEnv('HTTP_PROXY', `http://me:word@${address}`);
  const onRetry = () => expect.fail('tried again');
  await expect(get('http://hub.invalid', onRetry)).rejects.toThrow(
    /^cannot reach http:\/\/hub\.invalid: Proxy response \(407\)/,
  );
  vi.stubEnv('HTTP_PROXY', 'me:word@proxy');
  await expect(get('http://hub.invalid', onRetry)).rejects.toThrow(
    /^HTTP_PROXY should be the address of a proxy, such as http:\/\/proxy\.example:3128$/,
  );
});
