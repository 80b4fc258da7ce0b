import fc from 'fast-check';
import { expect, test } from 'vitest';
import { UserError } from '../errors.ts';
import { AnswerText } from './answer-text.ts';

/** A tokenizer whose token i is the i-th of these texts. */
const tokenizer = (texts: readonly string[]) => ({
  stream: () => ({ push: (id: number) => texts[id]!, end: () => texts.at(-1)! }),
});

/** Everything the pieces say, given out piece by piece; the last piece comes with the end. */
function run(pieces: readonly string[], stops: readonly string[]) {
  const text = new AnswerText(tokenizer(pieces), [], stops);
  const shown: string[] = [];
  for (let id = 0; id < pieces.length - 1 && text.stop === null; id++) shown.push(text.push(id));
  if (text.stop === null) shown.push(text.end());
  return { shown, whole: text.whole, stop: text.stop };
}

/** One character after the other: the text ends where it first ends with a stop string, the longest of those it ends with. */
function reference(whole: string, stops: readonly string[]): string {
  for (let end = 1; end <= whole.length; end++) {
    const ended = stops.filter((stop) => whole.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0];
    if (ended !== undefined) return whole.slice(0, end - ended.length);
  }
  return whole;
}

test('however the text falls into pieces, it ends before the first stop string, and nothing of that is given out', () => {
  const word = (minLength: number, maxLength: number) =>
    fc.array(fc.constantFrom('a', 'b', '\n'), { minLength, maxLength }).map((letters) => letters.join(''));
  let stopped = 0;
  fc.assert(
    fc.property(
      fc.array(word(0, 4), { minLength: 1, maxLength: 12 }),
      fc.array(word(1, 5), { maxLength: 3 }),
      (pieces, stops) => {
        const { shown, whole, stop } = run(pieces, stops);
        const wanted = reference(pieces.join(''), stops);
        expect(whole).toBe(wanted);
        expect(shown.join('')).toBe(wanted);
        expect(stop !== null).toBe(stops.some((one) => pieces.join('').includes(one)));
        if (stop !== null) {
          stopped++;
          expect(stops).toContain(stop);
        }
      },
    ),
    { seed: 20261125, numRuns: 2000 },
  );
  expect(stopped).toBeGreaterThan(200);
});

test('only what may become a stop string is held back, until it is decided', () => {
  expect(run(['ab', 'c', 'E', 'N', 'd', 'EN', ''], ['END']).shown).toEqual(['ab', 'c', '', '', 'ENd', '', 'EN']);
  expect(run(['ab', 'c', ' E', 'ND and more', ''], ['END'])).toEqual({
    ...{ shown: ['ab', 'c', ' ', ''], whole: 'abc ', stop: 'END' },
  });
});

test('the start of an answer is part of it, but is neither given out nor searched', () => {
  const text = new AnswerText(tokenizer(['The\nanswer', ' is', ' B', '\nmore', '']), [0, 1], ['\n']);
  expect([text.push(2), text.stop]).toEqual([' B', null]);
  expect([text.push(3), text.stop]).toEqual(['', '\n']);
  expect(text.whole).toBe('The\nanswer is B');
});

test('an empty stop string is refused', () => {
  expect(() => new AnswerText(tokenizer(['']), [], ['a', ''])).toThrow(UserError);
});
