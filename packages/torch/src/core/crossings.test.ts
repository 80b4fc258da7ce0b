import { expect, test } from 'vitest';
import { countCrossings, scope, tensor, toDevice } from '../index.ts';

const count = (body: () => void) => scope(() => countCrossings(body));

test('every kind of read counts once', () => {
  const one = tensor([3]);
  const half = tensor([1, 2], { dtype: 'bfloat16' });
  for (const read of [
    () => one.item(),
    () => one.toNumbers(),
    () => one.tolist(),
    () => one.data(),
    () => one.bytes(),
    () => half.toNumbers(),
  ])
    expect(count(read)).toEqual({ reads: 1, uploads: 0 });
  expect(count(() => one.add(1).reshape([1, 1]).shape)).toEqual({ reads: 0, uploads: 0 });
});

test('an upload is what is sent to a device, not what is made or converted', () => {
  expect(
    count(() => {
      const made = tensor([1, 2]).to('float64');
      expect(toDevice(made, 'cpu')).toBe(made);
      made.to({ device: 'cpu' });
      made.to('cpu');
    }),
  ).toEqual({ reads: 0, uploads: 3 });
});

test('counts in counts, and none after an error', () => {
  const one = tensor([3]);
  const outer = count(() => {
    one.item();
    expect(count(() => one.item()).reads).toBe(1);
    expect(() =>
      countCrossings(() => {
        one.item();
        throw new Error('stop');
      }),
    ).toThrow('stop');
  });
  expect(outer).toEqual({ reads: 3, uploads: 0 });
  one.item();
  expect(outer.reads).toBe(3);
});
