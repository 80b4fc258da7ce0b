import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { hubSettings } from './settings.ts';

test('without variables: the public hub, the cache in the home folder', () => {
  const { endpoint, cache, offline } = hubSettings({});
  expect({ endpoint, cache, offline }).toEqual({
    endpoint: 'https://huggingface.co',
    cache: join(homedir(), '.cache/huggingface/hub'),
    offline: false,
  });
});

test("Python's variables", () => {
  const home = mkdtempSync(join(tmpdir(), 'ivtlr-hf-'));
  try {
    writeFileSync(join(home, 'token'), 'from-file\n');
    writeFileSync(join(home, 'elsewhere'), 'other');
    expect(hubSettings({ HF_HOME: home })).toMatchObject({ cache: join(home, 'hub'), token: 'from-file' });
    expect(hubSettings({ HF_HOME: home, HF_TOKEN: ' mine ' }).token).toBe('mine');
    expect(hubSettings({ HF_HOME: home, HF_TOKEN_PATH: join(home, 'elsewhere') }).token).toBe('other');
    expect(hubSettings({ HF_HOME: join(home, 'none') }).token).toBeUndefined();
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
  expect(hubSettings({ XDG_CACHE_HOME: '/x' }).cache).toBe('/x/huggingface/hub');
  expect(hubSettings({ HF_HOME: '/h', HF_HUB_CACHE: '~/c' }).cache).toBe(join(homedir(), 'c'));
  expect(hubSettings({ HUGGINGFACE_HUB_CACHE: '/old' }).cache).toBe('/old');
  expect(['1', 'ON', 'yes', 'True', '0', ''].map((value) => hubSettings({ HF_HUB_OFFLINE: value }).offline)).toEqual([
    true,
    true,
    true,
    true,
    false,
    false,
  ]);
  expect(hubSettings({ HF_ENDPOINT: 'http://localhost:8080/' }).endpoint).toBe('http://localhost:8080');
  expect(() => hubSettings({ HF_ENDPOINT: 'mirror' })).toThrow(/HF_ENDPOINT should be an address/);
});

test('a token that no header can hold, or a password in the address, is refused and never shown', () => {
  const home = mkdtempSync(join(tmpdir(), 'ivtlr-hf-'));
  const messageOf = (env: NodeJS.ProcessEnv) => {
    try {
      hubSettings({ HF_HOME: home, ...env });
    } catch (error) {
      expect(error).toBeInstanceOf(UserError);
      return (error as Error).message;
    }
    return expect.fail('accepted');
  };
  try {
    for (const token of ['hf_secret\nX-Other: 1', 'hf_secret\rx', 'hf secret', 'hf_s\u00e9cret', 'hf_secret\0x']) {
      expect(messageOf({ HF_TOKEN: token })).toBe(
        'the token in HF_TOKEN holds a line break, a blank or another character that no token has; it should be one word such as hf_..',
      );
      expect(messageOf({ HUGGING_FACE_HUB_TOKEN: token })).toMatch(/^the token in HUGGING_FACE_HUB_TOKEN holds/);
      writeFileSync(join(home, 'token'), token);
      expect(messageOf({})).toBe(messageOf({ HF_TOKEN: token }).replace('HF_TOKEN', join(home, 'token')));
    }
    writeFileSync(join(home, 'token'), 'hf_fine\n');
    expect(messageOf({ HF_ENDPOINT: 'https://me:secret@hub.example' })).not.toContain('secret');
    expect(messageOf({ HF_ENDPOINT: 'ftp//me:secret@hub.example' })).not.toContain('secret');
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
});
