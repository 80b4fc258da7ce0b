import { expect, it } from 'vitest';
import { getJson } from './client.ts';

it('sends no key with characters that a header cannot have', async () => {
  for (const key of ['sésame 🔑', 'ключ', 'two\nlines'])
    await expect(getJson('v1/models', key)).rejects.toMatchObject({ kind: 'key', title: 'The API key cannot be sent' });
});
