import { expect, it } from 'vitest';
import { printable, UserError } from './errors.ts';

it('shows control characters as codes and leaves text, tabs and line ends alone', () => {
  expect(printable('a\u001b[2J\u0007\u009b\r\0b')).toBe('a\\x1b[2J\\x07\\x9b\\x0d\\x00b');
  expect(printable('größer\t日本 🁣\n')).toBe('größer\t日本 🁣\n');
});

it('a user error never carries control characters of what it quotes', () => {
  expect(new UserError('no key "a\u001b[31m"').message).toBe('no key "a\\x1b[31m"');
});
