import { expect, it } from 'vitest';
import { z } from 'zod';
import { schemaMistakes, UserError } from './errors.ts';

it('a user error never carries control characters of what it quotes', () => {
  expect(new UserError('no key "a\u001b[31m"').message).toBe('no key "a\\x1b[31m"');
  expect(new UserError('not JSON: "{\n\n \n\n}"').message).toBe('not JSON: "{\n}"');
  expect(new UserError('a'.repeat(2000)).message).toBe('a'.repeat(2000));
  for (const long of ['a'.repeat(2001), '\0'.repeat(1000), 'a'.repeat(1e7)])
    expect(new UserError(long).message).toMatch(/^.{2000} \[\.\.\]$/);
});

it('mistakes of a schema are named with their places, of many the first five', () => {
  const schema = z.object({ a: z.object({ b: z.number(), c: z.int() }) });
  expect(schemaMistakes(schema.safeParse({ a: { c: 'x' } }).error!)).toBe(
    '✖ missing; expected number\n  → at a.b\n✖ Invalid input: expected number, received string\n  → at a.c',
  );
  const list = z.array(z.number()).safeParse(new Array(2000).fill('x')).error!;
  expect(schemaMistakes(list).split('\n')).toHaveLength(11);
  expect(schemaMistakes(list)).toMatch(/\nand 1995 more$/);
});
