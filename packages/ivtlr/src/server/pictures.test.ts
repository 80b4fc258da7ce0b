/** Pictures of requests: data URLs, and addresses that a server may or may not fetch from. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { isPrivateAddress, type PictureLimits, pictureBytes } from './pictures.ts';

const limits: PictureLimits = { maxBytes: 100, allowHosts: [], timeoutMs: 5000 };
const get = (url: string, more: Partial<PictureLimits> = {}) =>
  pictureBytes({ url, name: 'picture' }, { ...limits, ...more });

let server: Server | null = null;
afterEach(() => {
  server?.closeAllConnections();
  server?.close();
  server = null;
});

/** Serves on this machine, which tests allow, and everything else is private. */
async function host(answer: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  server = createServer(answer);
  await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
const local = { allowHosts: ['127.0.0.1', 'localhost'], isPrivate: (address: string) => address !== '127.0.0.1' };

test('data URLs give their bytes, with parameters and blanks at the end too', async () => {
  for (const head of ['data:image/png;base64,', 'DATA:image/svg+xml;charset=utf-8;base64,', 'data:;base64,'])
    expect(Buffer.from(await get(`${head}aGVsbG8=\n`)).toString()).toBe('hello');
  expect(Buffer.from(await get('data:image/png;base64,aGVsbG8')).toString()).toBe('hello');
});

test('data URLs that are none', async () => {
  await expect(get('data:image/png,hello')).rejects.toThrow('picture: a data URL should begin like');
  await expect(get(`data:image/png;base64,${'A'.repeat(137)}`)).rejects.toThrow('limit of this server');
  for (const data of ['aGV*bG8=', `${'='.repeat(100)}x`, 'aGVs=bG8'])
    await expect(get(`data:image/png;base64,${data}`)).rejects.toThrow('not valid base64');
  await expect(get('ftp://example.org/a.png')).rejects.toThrow('should be a data URL');
});

describe('addresses', () => {
  test('are fetched from allowed hosts alone, whatever their case', async () => {
    const url = await host((_, response) => response.end('bytes'));
    expect(Buffer.from(await get(`${url}/a.png`, local)).toString()).toBe('bytes');
    await expect(get(`${url}/a.png`)).rejects.toMatchObject({
      status: 400,
      code: 'image_host_not_allowed',
      param: 'picture',
    });
    await expect(get('http://example.org/', { allowHosts: ['*.example.org'] })).rejects.toMatchObject({
      code: 'image_host_not_allowed',
    });
    await expect(
      get('http://evilexample.org/', { allowHosts: ['example.org', '*.example.org'] }),
    ).rejects.toMatchObject({
      code: 'image_host_not_allowed',
    });
    await expect(get('http://user:secret@127.0.0.1/', local)).rejects.toThrow('user name or password');
  });

  test('of this machine or a local network never are, by number, by name and by redirect', async () => {
    let asked = 0;
    const url = await host((_, response) => {
      asked++;
      response.end('secret');
    });
    const port = new URL(url).port;
    for (const name of [
      '127.0.0.1',
      'localhost',
      '[::1]',
      '[::ffff:127.0.0.1]',
      '0x7f000001',
      '2130706433',
      '127.1',
      '0.0.0.0',
    ])
      await expect(get(`http://${name}:${port}/`, { allowHosts: ['*'] }), name).rejects.toMatchObject({
        code: 'image_host_not_allowed',
      });
    expect(asked).toBe(0);
    server!.close();
    const redirecting = await host((_, response) =>
      response.writeHead(302, { location: 'http://169.254.169.254/' }).end(),
    );
    await expect(get(redirecting, { ...local, allowHosts: ['*'] })).rejects.toThrow('no public address');
  });

  test('redirects are followed where they are allowed, and not for ever', async () => {
    const url = await host((request, response) => {
      if (request.url === '/end') response.end('there');
      else if (request.url === '/once') response.writeHead(301, { location: '/end' }).end();
      else if (request.url === '/away') response.writeHead(302, { location: 'http://example.org/' }).end();
      else if (request.url === '/file') response.writeHead(302, { location: 'file:///etc/passwd' }).end();
      else response.writeHead(302, { location: '/loop' }).end();
    });
    expect(Buffer.from(await get(`${url}/once`, local)).toString()).toBe('there');
    await expect(get(`${url}/away`, local)).rejects.toThrow('does not fetch pictures from example.org');
    await expect(get(`${url}/file`, local)).rejects.toThrow('no address of the web');
    await expect(get(`${url}/loop`, local)).rejects.toThrow('more than 3 times');
  });

  test('what is too large, too slow or not there', async () => {
    const url = await host((request, response) => {
      if (request.url === '/large') response.end('x'.repeat(101));
      else if (request.url === '/endless') {
        response.write('x'.repeat(60));
        const timer = setInterval(() => response.write('x'.repeat(60)), 5);
        response.on('close', () => clearInterval(timer));
      } else if (request.url === '/missing') response.writeHead(404).end();
      // Others are not answered.
    });
    await expect(get(`${url}/large`, local)).rejects.toThrow('limit of this server');
    await expect(get(`${url}/endless`, local)).rejects.toThrow('limit of this server');
    await expect(get(`${url}/missing`, local)).rejects.toThrow('the host answered 404');
    await expect(get(`${url}/silent`, { ...local, timeoutMs: 100 })).rejects.toThrow('did not come within 0.1 s');
    server!.closeAllConnections();
    await new Promise((resolve) => server!.close(resolve));
    await expect(get(`${url}/gone`, local)).rejects.toThrow('cannot be fetched');
  });
});

test.each([
  ['127.0.0.1', true],
  ['10.1.2.3', true],
  ['172.31.0.1', true],
  ['192.168.1.1', true],
  ['169.254.169.254', true],
  ['100.64.0.1', true],
  ['0.0.0.0', true],
  ['224.0.0.1', true],
  ['255.255.255.255', true],
  ['8.8.8.8', false],
  ['172.32.0.1', false],
  ['::1', true],
  ['::', true],
  ['::ffff:8.8.8.8', true],
  ['fe80::1%eth0', true],
  ['fd00::1', true],
  ['64:ff9b::7f00:1', true],
  ['2002:7f00:1::', true],
  ['2001:db8::1', true],
  ['2606:4700::1111', false],
  ['nonsense', true],
])('%s is private: %s', (address, expected) => {
  expect(isPrivateAddress(address)).toBe(expected);
});
