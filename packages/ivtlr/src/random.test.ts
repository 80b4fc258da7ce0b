import { expect, test } from 'vitest';
import { Random } from './random.ts';

test('the same key gives the same numbers, any other key others', () => {
  const draw = (...key: number[]) => Array.from({ length: 4 }, () => new Random(...key)).map((r) => r.next());
  expect(new Set(draw(1, 2)).size).toBe(1);
  const firsts = new Set<number>();
  for (let seed = 0; seed < 40; seed++)
    for (let index = 0; index < 40; index++) firsts.add(new Random(seed, index).next());
  expect(firsts.size).toBe(1600);
  const near = [[0], [0, 0], [1], [0, 1], [1, 0], [2 ** 32], [2 ** 33], [2 ** 52 + 1], [2 ** 52]];
  expect(new Set(near.map((key) => new Random(...key).next())).size).toBe(near.length);
});

test('the stream never changes: samples of published seeds must stay what they are', () => {
  const random = new Random(1, 2, 3);
  expect([random.next(), random.next(), random.next()]).toMatchInlineSnapshot(`
    [
      4025414340,
      2884688659,
      1215640059,
    ]
  `);
});

test('below is even: chi-squared over 10 bins, 100,000 draws', () => {
  const counts = new Array<number>(10).fill(0);
  const random = new Random(7);
  for (let i = 0; i < 100_000; i++) counts[random.below(10)]!++;
  const chi = counts.reduce((sum, count) => sum + (count - 10_000) ** 2 / 10_000, 0);
  expect(chi).toBeLessThan(27.9); // 0.1% level at 9 degrees of freedom
});

test('first draws of neighbouring indices are even too', () => {
  const counts = new Array<number>(16).fill(0);
  for (let index = 0; index < 32_000; index++) counts[new Random(1, 5, 0, index).below(16)]!++;
  const chi = counts.reduce((sum, count) => sum + (count - 2000) ** 2 / 2000, 0);
  expect(chi).toBeLessThan(37.7); // 0.1% level at 15 degrees of freedom
});

test('between stays in its range, permutations are permutations', () => {
  const random = new Random(9);
  const values = Array.from({ length: 1000 }, () => random.between(-2, 3));
  expect(Math.min(...values)).toBeGreaterThanOrEqual(-2);
  expect(Math.max(...values)).toBeLessThan(3);
  expect(values.reduce((a, b) => a + b) / 1000).toBeCloseTo(0.5, 0);
  expect(random.permutation(8).sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  const places = new Set(Array.from({ length: 200 }, () => random.permutation(3).join('')));
  expect(places.size).toBe(6);
});
