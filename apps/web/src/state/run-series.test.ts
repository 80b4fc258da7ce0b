import { expect, it } from 'vitest';
import { align, curveOf, smooth, stageMarks, thin } from './run-series.ts';

const line = (step: number, loss: unknown, phase = 'stage-0', kind = 'step') => ({ kind, step, phase, loss });

it('takes the numbers of one kind of line, and the last word on a step that was repeated', () => {
  const lines = [
    line(10, 3),
    line(20, 2),
    line(20, 0.5, 'stage-0', 'validation'),
    line(30, null),
    line(20, 1.5),
    line(40, 1),
  ];
  expect(curveOf(lines, 'step', 'loss')).toEqual({ x: [10, 20, 40], y: [3, 1.5, 1] });
  expect(curveOf(lines, 'validation', 'loss')).toEqual({ x: [20], y: [0.5] });
});

it('marks where a phase begins', () => {
  const lines = [line(10, 1, 'pretrain'), line(20, 1, 'pretrain'), line(30, 1), line(40, 1)];
  expect(stageMarks(lines)).toEqual([
    { step: 10, name: 'pretrain' },
    { step: 30, name: 'stage-0' },
  ]);
});

it('smooths without moving the start, and leaves a constant as it is', () => {
  const x = [1, 2, 3];
  expect(smooth({ x, y: [4, 2, 6] }, 0).y).toEqual([4, 2, 6]);
  const { y } = smooth({ x, y: [4, 2, 6] }, 0.5);
  expect(y[0]).toBe(4);
  expect(y[1]).toBeCloseTo((0.5 * 4 * 0.5 + 0.5 * 2) / 0.75);
  for (const value of smooth({ x, y: [5, 5, 5] }, 0.9).y) expect(value).toBeCloseTo(5);
});

it('thins to means of neighbours', () => {
  expect(thin({ x: [1, 2, 3, 4, 5], y: [1, 3, 5, 7, 9] }, 3)).toEqual({ x: [2, 4, 5], y: [2, 6, 9] });
  expect(thin({ x: [1, 2], y: [1, 3] }, 3)).toEqual({ x: [1, 2], y: [1, 3] });
});

it('puts curves over one x, with gaps', () => {
  const curves = [
    { x: [1, 3], y: [10, 30] },
    { x: [2, 3], y: [5, 6] },
  ];
  expect(align(curves)).toEqual([
    [1, 2, 3],
    [10, null, 30],
    [null, 5, 6],
  ]);
});
