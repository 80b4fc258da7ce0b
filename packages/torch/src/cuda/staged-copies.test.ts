import { expect, test } from 'vitest';
import { arange, empty, keep, liveTensorCount, noGrad, ones, scope } from '../index.ts';
import { type Stage, StagedCopies } from './staged-copies.ts';

/** Stands in for pinned memory and a GPU's marks, and writes down what happens. */
function recording(log: string[]) {
  let made = 0;
  return (bytes: number): Stage => {
    const name = made++;
    return {
      memory: keep(empty([bytes], { dtype: 'uint8' })),
      read: {
        record: () => void log.push(`sent ${name}`),
        synchronize: () => void log.push(`waited ${name}`),
        [Symbol.dispose]: () => void log.push(`freed ${name}`),
      },
    };
  };
}

test('pieces take turns, and no memory is written again before the GPU has read it', () => {
  const before = liveTensorCount();
  const log: string[] = [];
  scope(() =>
    noGrad(() => {
      const source = arange(0, 50, 1).to('float32');
      const target = empty([50], { dtype: 'bfloat16' });
      {
        using copies = new StagedCopies('cpu', 64, recording(log));
        for (let at = 0; at < 50; at += 16)
          copies.copy(target.narrow(0, at, Math.min(16, 50 - at)), source.narrow(0, at, Math.min(16, 50 - at)));
        copies.copy(target.narrow(0, 0, 0), source.narrow(0, 0, 0));
        expect(() => copies.copy(target.narrow(0, 0, 17), source.narrow(0, 0, 17))).toThrow(/at most 64 bytes, not 68/);
      }
      expect(target.to('float32').tolist()).toEqual(source.tolist());
    }),
  );
  expect(log).toEqual([
    'sent 0',
    'sent 1',
    'waited 0',
    'sent 0',
    'waited 1',
    'sent 1',
    'waited 0',
    'freed 0',
    'waited 1',
    'freed 1',
  ]);
  expect(liveTensorCount()).toBe(before);
});

test('the source may change at once', () => {
  scope(() =>
    noGrad(() => {
      const source = ones([4]);
      const target = empty([4]);
      using copies = new StagedCopies('cpu', 16, recording([]));
      copies.copy(target, source);
      source.fill_(2);
      expect(target.tolist()).toEqual([1, 1, 1, 1]);
    }),
  );
});
