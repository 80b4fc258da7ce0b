import { expect, it } from 'vitest';
import { wilsonInterval } from '../eval/report.ts';
import { seedInterval, studentQuantile } from './seed-interval.ts';

// Table of Student's t, two-sided 95%; R: qt(.975, c(1, 2, 3, 4, 5, 9, 29, 999))
it.each([
  [1, 12.7062],
  [2, 4.30265],
  [3, 3.18245],
  [4, 2.77645],
  [5, 2.57058],
  [9, 2.26216],
  [29, 2.04523],
  [999, 1.96234],
])('has the quantile of %i degrees of freedom', (degrees, quantile) => {
  expect(studentQuantile(degrees)).toBeCloseTo(quantile, 3);
});

it('is the t interval where trainings differ, and never narrower than the samples allow', () => {
  const [low, high] = seedInterval([0.5, 0.7], 1e9);
  expect(low).toBe(0); // .6 - 12.7 * .1
  expect(high).toBe(1);
  const five = [0.5, 0.52, 0.54, 0.56, 0.58];
  const half = (2.77645 * Math.sqrt(0.001)) / Math.sqrt(5);
  expect(seedInterval(five, 1e9)[0]).toBeCloseTo(0.54 - half, 5);
  expect(seedInterval(five, 1e9)[1]).toBeCloseTo(0.54 + half, 5);
  expect(seedInterval([1, 1, 1, 1, 1], 1000)).toEqual(wilsonInterval(1000, 1000));
  expect(seedInterval([0.9], 1000)).toEqual(wilsonInterval(900, 1000));
});
