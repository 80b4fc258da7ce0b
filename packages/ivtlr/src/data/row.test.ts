import { expect, test } from 'vitest';
import { imageField, textField, textListField } from './row.ts';

const bytes = new Uint8Array([1, 2]);

test('texts', () => {
  expect(textField({ a: 'x' }, 'a', 'f row 3')).toBe('x');
  expect(textField({ a: null }, 'a', 'f row 3', '')).toBe('');
  expect(() => textField({ a: null }, 'a', 'f row 3')).toThrow('f row 3, column a: should be text, but holds nothing');
  expect(() => textField({ a: 3 }, 'a', 'f row 3', '')).toThrow('f row 3, column a: should be text, but holds number');
});

test('lists', () => {
  expect(textListField({ a: ['x'] }, 'a', 'p')).toEqual(['x']);
  expect(textListField({ a: null }, 'a', 'p')).toEqual([]);
  expect(() => textListField({ a: ['x', 1] }, 'a', 'p')).toThrow('p, column a: should be a list of texts');
  expect(() => textListField({ a: 'x' }, 'a', 'p')).toThrow(/holds string/);
});

test('images', () => {
  expect(imageField({ i: { bytes, path: 'x.png' } }, 'i', 'p')).toEqual({ kind: 'encoded', bytes, name: 'x.png (p)' });
  expect(imageField({ i: { bytes, path: null } }, 'i', 'p')).toEqual({ kind: 'encoded', bytes, name: 'p' });
  expect(imageField({ i: null }, 'i', 'p')).toBeNull();
  expect(imageField({ i: { bytes: null, path: null } }, 'i', 'p')).toBeNull();
  expect(() => imageField({ i: { bytes: null, path: 'x.png' } }, 'i', 'p')).toThrow(/only named \(x\.png\)/);
  expect(() => imageField({ i: { bytes: 'text', path: 'x' } }, 'i', 'p')).toThrow(
    'p, column i.bytes: should be binary',
  );
  expect(() => imageField({ i: [1] }, 'i', 'p')).toThrow(
    'p, column i: should be a struct of bytes and path, but holds a list',
  );
});
