import { expect, it } from 'vitest';
import { printable } from './printable.ts';

it('shows control characters as codes and leaves text, tabs and line ends alone', () => {
  expect(printable('a\u001b[2J\u0007\u009b\r\0b')).toBe('a\\x1b[2J\\x07\\x9b\\x0d\\x00b');
  expect(printable('größer\t日本 🁣\n')).toBe('größer\t日本 🁣\n');
});
