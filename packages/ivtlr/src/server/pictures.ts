/** The bytes of a picture that a request holds or points to. */
import { lookup } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { Agent, fetch } from 'undici';
import type { PictureAddress } from './chat-question.ts';
import { badRequest, type HttpError } from './http-error.ts';

export interface PictureLimits {
  /** Largest picture in bytes. */
  maxBytes: number;
  /** Hosts that pictures may be fetched from: `example.org`, `*.example.org`, or `*` for all that are public. None are by default. */
  allowHosts: readonly string[];
  timeoutMs: number;
  /** Addresses that are refused. Default: all that are not public. */
  isPrivate?: (address: string) => boolean;
}

const DATA_URL = /^data:([\w.+-]+\/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,/i;
const MAX_REDIRECTS = 3;

/** @throws HttpError 400 naming the field when the picture is not there, too large or not allowed */
export async function pictureBytes(picture: PictureAddress, limits: PictureLimits): Promise<Uint8Array> {
  if (/^data:/i.test(picture.url)) return fromDataUrl(picture, limits);
  if (/^https?:/i.test(picture.url)) return fetchPicture(picture, limits);
  throw wrong(picture, 'should be a data URL such as data:image/png;base64,..');
}

function fromDataUrl(picture: PictureAddress, { maxBytes }: PictureLimits): Uint8Array {
  const head = DATA_URL.exec(picture.url.slice(0, 1000));
  if (!head) throw wrong(picture, 'a data URL should begin like data:image/png;base64,');
  const data = picture.url.slice(head[0].length).trim();
  if (data.length > Math.ceil(maxBytes / 3) * 4) throw tooLarge(picture, maxBytes);
  if (data.length === 0) throw wrong(picture, 'the data URL is empty');
  const bytes = Buffer.from(data, 'base64');
  const padding = data.endsWith('==') ? 2 : data.endsWith('=') ? 1 : 0;
  // Node skips what is no base64; a picture with holes is no picture.
  if (Math.abs(bytes.length - ((data.length - padding) * 3) / 4) >= 1)
    throw wrong(picture, 'the data URL is not valid base64');
  return bytes;
}

async function fetchPicture(picture: PictureAddress, limits: PictureLimits): Promise<Uint8Array> {
  const { maxBytes, timeoutMs, isPrivate = isPrivateAddress } = limits;
  const signal = AbortSignal.timeout(timeoutMs);
  // The address that is checked is the one that is connected to: a name may have another one a moment later.
  const dispatcher = new Agent({ connect: { lookup: publicLookup(isPrivate) } });
  try {
    let at = checkedUrl(picture, picture.url, limits, isPrivate);
    for (let redirects = 0; ; redirects++) {
      const response = await fetch(at, { redirect: 'manual', signal, dispatcher, headers: { accept: 'image/*' } });
      const location = response.headers.get('location');
      if (response.status >= 300 && response.status < 400 && location !== null) {
        await response.body?.cancel();
        if (redirects === MAX_REDIRECTS) throw wrong(picture, `redirects more than ${MAX_REDIRECTS} times`);
        const next = URL.parse(location, at);
        if (!next) throw wrong(picture, 'redirects to what is no address');
        at = checkedUrl(picture, next.href, limits, isPrivate);
        continue;
      }
      if (!response.ok) throw wrong(picture, `the host answered ${response.status}`);
      const chunks: Uint8Array[] = [];
      let size = 0;
      for await (const chunk of response.body ?? []) {
        size += chunk.length;
        if (size > maxBytes) throw tooLarge(picture, maxBytes);
        chunks.push(chunk);
      }
      return Buffer.concat(chunks);
    }
  } catch (error) {
    if ((error as Error).name === 'HttpError') throw error;
    const { cause, message, name } = error as Error & { cause?: { message?: string; code?: string } };
    if (name === 'TimeoutError') throw wrong(picture, `did not come within ${timeoutMs / 1000} s`);
    if (cause?.code === PRIVATE) throw notPublic(picture);
    throw wrong(picture, `cannot be fetched: ${cause?.message ?? message}`);
  } finally {
    void dispatcher.destroy();
  }
}

/** @throws HttpError for a host that is not allowed */
function checkedUrl(
  picture: PictureAddress,
  href: string,
  { allowHosts }: PictureLimits,
  isPrivate: (address: string) => boolean,
): string {
  const url = URL.parse(href);
  if (!url || !/^https?:$/.test(url.protocol)) throw wrong(picture, 'is no address of the web');
  if (url.username || url.password) throw wrong(picture, 'should not hold a user name or password');
  const host = url.hostname.replace(/\.$/, '').toLowerCase();
  const allowed = allowHosts.some((pattern) => {
    const name = pattern.toLowerCase();
    return name === '*' || name === host || (name.startsWith('*.') && host.endsWith(name.slice(1)));
  });
  if (!allowed)
    throw badRequest(
      `${picture.name}: this server does not fetch pictures from ${host}; send the picture as a data URL`,
      picture.name,
      'image_host_not_allowed',
    );
  const literal = host.replace(/^\[|\]$/g, '');
  if (isIP(literal) !== 0 && isPrivate(literal)) throw notPublic(picture);
  return url.href;
}

const PRIVATE = 'ERR_PRIVATE_ADDRESS';

/** Resolves names as Node does, but to public addresses alone. */
function publicLookup(isPrivate: (address: string) => boolean): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, addresses) => {
      if (error) return callback(error, '');
      if (addresses.length === 0 || addresses.some(({ address }) => isPrivate(address)))
        return callback(Object.assign(new Error('not a public address'), { code: PRIVATE }), '');
      if (options.all) return callback(null, addresses as never);
      callback(null, addresses[0]!.address, addresses[0]!.family);
    });
  };
}

const blocked = new BlockList();
for (const [net, bits] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 3],
] as const)
  blocked.addSubnet(net, bits, 'ipv4');
// Of IPv6 only 2000::/3 is public, and within it not the ranges that hide an IPv4 address or are for documents.
for (const [net, bits] of [
  ['2001::', 23],
  ['2001:db8::', 32],
  ['2002::', 16],
  ['3fff::', 20],
] as const)
  blocked.addSubnet(net, bits, 'ipv6');
const global = new BlockList();
global.addSubnet('2000::', 3, 'ipv6');

/** Whether an address is of this machine, a local network or reserved: nothing that a request may have fetched. */
export function isPrivateAddress(address: string): boolean {
  const plain = address.split('%')[0]!;
  if (isIP(plain) === 4) return blocked.check(plain, 'ipv4');
  return isIP(plain) !== 6 || !global.check(plain, 'ipv6') || blocked.check(plain, 'ipv6');
}

function wrong(picture: PictureAddress, message: string): HttpError {
  return badRequest(`${picture.name}: ${message}`, picture.name, 'invalid_image');
}

function tooLarge(picture: PictureAddress, maxBytes: number): HttpError {
  return wrong(picture, `the picture has more than ${(maxBytes / 2 ** 20).toFixed(1)} MiB, the limit of this server`);
}

function notPublic(picture: PictureAddress): HttpError {
  return badRequest(`${picture.name}: the host has no public address`, picture.name, 'image_host_not_allowed');
}
