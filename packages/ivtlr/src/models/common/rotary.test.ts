import { arange, liveTensorBytes, liveTensorCount, noGrad, scope, tensor } from '@ivtlr/torch';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Rotary } from './rotary.ts';

let baseline = 0;
beforeEach(() => {
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));

const POSITIONS = 300;
const HEAD = 8;
const OPTIONS = { headSize: HEAD, theta: 10000, scaling: null, maxPositions: POSITIONS, sections: null };

test('the table has its final size from the first pass on, and is made once', () => {
  const rotary = new Rotary(OPTIONS);
  const at = (position: number) =>
    scope(() => rotary.angles(tensor([[[position]]], { dtype: 'int64' }), 'float32', 'cpu').cos.toNumbers());
  const bytes = liveTensorBytes();
  at(0);
  // Cosines and sines of every position.
  expect(liveTensorBytes() - bytes).toBe(2 * POSITIONS * HEAD * 4);
  const live = [liveTensorCount(), liveTensorBytes()];
  const angles = Array.from({ length: HEAD / 2 }, (_, i) => (POSITIONS - 1) / 10000 ** ((2 * i) / HEAD));
  const wanted = [...angles, ...angles].map(Math.cos);
  const last = at(POSITIONS - 1);
  expect(Math.max(...last.map((value, i) => Math.abs(value - wanted[i]!)))).toBeLessThan(1e-4);
  expect([liveTensorCount(), liveTensorBytes()]).toEqual(live);
  expect(() => at(POSITIONS)).toThrow(/index out of range/);
  rotary.dispose();
});

test('the first pass may be at inference, and training use the same table', () => {
  const rotary = new Rotary(OPTIONS);
  const positions = () => arange(0, 5, 1, { dtype: 'int64' }).view([1, 1, 5]);
  scope(() => noGrad(() => void rotary.angles(positions(), 'float32', 'cpu')));
  const live = liveTensorCount();
  scope(() => {
    const x = tensor([1]);
    x.requiresGrad = true;
    rotary.angles(positions(), 'float32', 'cpu').cos.mul(x).sum().backward();
    expect(x.grad!.numel).toBe(1);
    x.grad = null;
  });
  expect(liveTensorCount()).toBe(live);
  rotary.dispose();
});
