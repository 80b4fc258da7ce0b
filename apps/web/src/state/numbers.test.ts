import { expect, it } from 'vitest';
import { ago, count, duration, shortNumber } from './numbers.ts';

it.each([
  [0.28512, '0.285'],
  [606.4, '606'],
  [12340.2, '12,340'],
  [0.000023, '2.3e-5'],
  [0, '0'],
  [-0.5, '-0.5'],
  [null, '–'],
  [Number.POSITIVE_INFINITY, '–'],
])('%s is %s', (value, text) => {
  expect(shortNumber(value)).toBe(text);
});

it('says times and counts', () => {
  expect([0.0123, 0.5, 12.34, 125, 119.7].map(duration)).toEqual([
    '12.3\u00a0ms',
    '0.5\u00a0s',
    '12.3\u00a0s',
    '2\u00a0min\u00a05\u00a0s',
    '2\u00a0min\u00a00\u00a0s',
  ]);
  expect([count(1, 'patch', 'patches'), count(1234, 'step')]).toEqual(['1 patch', '1,234 steps']);
  expect([1000, 600_000, 7_200_000, 864_000_000].map(ago)).toEqual([
    'just now',
    '10 min ago',
    '2 h ago',
    '10 days ago',
  ]);
});
