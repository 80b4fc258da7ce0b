import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, it, vi } from 'vitest';
import { run } from './main.ts';

const model = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
const image = fileURLToPath(new URL('../../../../docs/trace.png', import.meta.url));
afterEach(() => {
  vi.restoreAllMocks();
});

it.each([['infer', '--image', image, '--question', 'Which?'], ['eval'], ['ablate'], ['analyze', '--out', tmpdir()]])(
  '%s says in one sentence that there is no such GPU',
  async (...command) => {
    let err = '';
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
      err += text;
      return true;
    });
    expect(await run([...command, '--model', model, '--device', 'cuda:99'])).toBe(2);
    expect(err).toMatch(/^error: --device cuda:99: .*; use --device auto or cpu\n$/);
  },
);
