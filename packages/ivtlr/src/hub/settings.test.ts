import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
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
