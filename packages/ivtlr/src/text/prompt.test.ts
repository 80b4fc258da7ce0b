import { expect, test } from 'vitest';
import { choiceLetter, stripText } from './prompt.ts';

test('letters follow the choice index', () => {
  expect([0, 1, 25].map(choiceLetter)).toEqual(['A', 'B', 'Z']);
});

test('strips what Python strips, and only at the ends', () => {
  expect(stripText(' \t\n\v\f\r\u001c\u001f\u0085\u00a0\u1680\u2003\u2028\u202f\u205f\u3000a b\u3000 ')).toBe('a b');
  expect(stripText('\ufeffa\u200b')).toBe('\ufeffa\u200b');
  expect(stripText(' \n')).toBe('');
});
