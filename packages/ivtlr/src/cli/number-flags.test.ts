import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { run } from './main.ts';

const model = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
let err = '';
afterEach(() => {
  vi.restoreAllMocks();
});

function failing(...args: string[]): Promise<number> {
  err = '';
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    err += text;
    return true;
  });
  return run(args);
}

describe('numbers beyond what a machine can do are refused before anything is loaded', () => {
  const evaluated = ['eval', '--model', model];
  it.each([
    [[...evaluated, '--latents', '1000000000'], 'from 0 to 1000'],
    [[...evaluated, '--patches', '1e9'], 'from 0 to 10000'],
    [[...evaluated, '--batch', '1000000000'], 'from 1 to 4096'],
    [[...evaluated, '--max-new-tokens', '100000000'], 'from 1 to 131072'],
    [[...evaluated, '--threads', '5000'], 'from 1 to 1024'],
    [[...evaluated, '--limit', '1000000000000000'], 'from 1 to 1000000000'],
    [[...evaluated, '--seed', '99999999999'], 'from 0 to 4294967295'],
    [['infer', '--model', model, '--seed', '99999999999'], 'from 0 to 4294967295'],
    [['infer', '--model', model, '--batch', '0'], 'from 1 to 4096'],
    [['ablate', '--model', model, '--max-latents', '1000'], 'from 0 to 64'],
    [['demo', '--rows', '99999999999999999999'], 'from 1 to 1000000'],
    [['demo', '--traces', '1e9'], 'from 0 to 1000'],
  ])('%j', async (args, range) => {
    expect(await failing(...args)).toBe(2);
    expect(err).toMatch(/^error: option '--[a-z-]+ <n>' argument '\d[\de]*' is invalid\. /);
    expect(err).toContain(`It should be a whole number ${range}.`);
  });
});

it('what together would not fit in memory is said before it is taken, by every command that asks', async () => {
  const many = ['--max-new-tokens', '131072', '--batch', '4096'];
  for (const args of [
    ['eval', '--limit', '4096'],
    ['ablate', '--limit', '4096'],
    ['analyze', '--limit', '4096', '--out', fileURLToPath(new URL('.', import.meta.url))],
  ]) {
    expect(await failing(...args, '--model', model, ...many)).toBe(2);
    expect(err).toMatch(
      /^error: 4096 answers at a time of up to 131072 tokens need \d+\.\d GiB for keys and values, but/,
    );
  }
});
