import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { UserError } from '../../errors.ts';
import { CHAMELEON_TOKENS, chameleonPrompts, folderTokens } from './prompts.ts';

const choices = [' a', 'b c '];
const front = '<s><racm3:break><image><eoss>';

test('official training: the image inside the braces, no special token, nothing after the options', () => {
  for (const task of ['m3cot', 'scienceqa']) {
    const { train } = chameleonPrompts('official', task);
    expect(train.text(' Which is {red}? \n', choices)).toBe(
      '[Question]:{<image> Which is {red}?}\n[Options]:\n(A).{a}\n(B).{b c}',
    );
    expect(train.text('q', [])).toBe('[Question]:{<image>q}\n[Options]:\n');
    expect([train.chat, train.afterLatents]).toEqual([false, undefined]);
  }
});

test('official inference: what the processor makes of it, the separator behind the slots', () => {
  const m3cot = chameleonPrompts('official', 'm3cot').infer;
  expect(m3cot.text(' q ', choices)).toBe(`${front}[Question]:{q}\n[Options]:\nA.{a}\nB.{b c}\nAnswer:`);
  const scienceqa = chameleonPrompts('official', 'scienceqa').infer;
  expect(scienceqa.text(' q ', choices)).toBe(`${front}[Question]:{q}\n[Options]:\n(A).{a}\n(B).{b c}\nAnswer:`);
  expect(scienceqa.text('q', [])).toBe(`${front}[Question]:{q}\nAnswer:`);
  for (const format of [m3cot, scienceqa])
    expect([format.chat, format.afterLatents]).toEqual([false, '<reserved08706>']);
});

test('consistent: both phases by the same function, with the tokens of the folder', () => {
  const tokens = { bos: 'B', imageStart: '(', imageEnd: ')', separator: 'S' };
  const { train, infer } = chameleonPrompts('consistent', 'm3cot', tokens);
  expect(train).toBe(infer);
  expect(train.text(' q ', choices)).toBe('B(<image>)[Question]:{q}\n[Options]:\n(A).{a}\n(B).{b c}\nAnswer:\n');
  expect(train.text('q', [])).toBe('B(<image>)[Question]:{q}\nAnswer:\n');
  expect(train.afterLatents).toBe('S');
});

test("a folder's own names, and one that its tokenizer lacks", () => {
  const folder = mkdtempSync(join(tmpdir(), 'prompts-'));
  const write = (name: string, content: unknown) => writeFileSync(join(folder, name), JSON.stringify(content));
  const knowing = (...tokens: string[]) => ({ tokenToId: (token: string) => (tokens.includes(token) ? 5 : undefined) });
  try {
    const known = Object.values(CHAMELEON_TOKENS);
    expect(folderTokens(folder, knowing(...known))).toEqual(CHAMELEON_TOKENS);
    write('tokenizer_config.json', { sep_token: null, boi_token: { content: '<in>' } });
    write('special_tokens_map.json', { sep_token: '<sep>', boi_token: '<other>' });
    const own = { ...CHAMELEON_TOKENS, imageStart: '<in>', separator: '<sep>' };
    expect(folderTokens(folder, knowing(...known, '<in>', '<sep>'))).toEqual(own);
    expect(() => folderTokens(folder, knowing(...known, '<in>'))).toThrow(UserError);
    expect(() => folderTokens(folder, knowing(...known, '<in>'))).toThrow(/does not know <sep>.*sep_token/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
