/** Admission by bytes: whatever comes and goes, the cache and a larger one that it is copied into stay within the budget. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CacheBudget } from './cache-budget.ts';

const PER = 10;

test('a question that fits waits at most until the others have ended, and bytes stay within the budget', () => {
  const setting = fc.record({
    bytes: fc.integer({ min: 1000, max: 100_000 }),
    rows: fc.integer({ min: 1, max: 12 }),
    asks: fc.array(
      fc.record({
        positions: fc.integer({ min: 1, max: 2000 }),
        leave: fc.nat(3),
        together: fc.integer({ min: 1, max: 2 }),
      }),
      { maxLength: 60 },
    ),
  });
  fc.assert(
    fc.property(setting, ({ bytes, rows, asks }) => {
      const budget = new CacheBudget(bytes, PER, rows);
      let cache = { slots: 0, positions: 0 };
      let running = 0;
      for (const { positions, leave, together } of asks) {
        running = Math.max(0, running - leave);
        if (together * positions * PER > bytes) {
          expect(() => budget.admit(running, positions, together)).toThrow(/for keys and values/);
          continue;
        }
        // Those that begin together begin alone where there are not rows enough.
        if (running > 0 && running + together > rows) continue;
        let admission = budget.admit(running, positions, together);
        if (admission === 'wait') {
          expect(running).toBeGreaterThan(0);
          running = 0;
          admission = budget.admit(running, positions, together);
        }
        expect(admission).not.toBe('wait');
        if (typeof admission === 'object') {
          expect(running).toBe(0);
          cache = admission;
        } else {
          // As SlotCache grows.
          const before = cache.slots * cache.positions;
          const grown = {
            slots: Math.max(cache.slots, running + together),
            positions: Math.max(cache.positions, positions),
          };
          if (grown.slots * grown.positions > before)
            expect((before + grown.slots * grown.positions) * PER).toBeLessThanOrEqual(bytes);
          cache = grown;
        }
        expect(cache.positions).toBeGreaterThanOrEqual(positions);
        expect(cache.slots).toBeGreaterThanOrEqual(running + together);
        expect(cache.slots * cache.positions * PER).toBeLessThanOrEqual(bytes);
        running += together;
      }
    }),
    { numRuns: 500 },
  );
});

test('a cache that a long question has made narrow becomes wide again', () => {
  const budget = new CacheBudget(64_000, PER, 8);
  expect(budget.admit(0, 6000)).toEqual({ slots: 1, positions: 6016 });
  expect(budget.admit(1, 100)).toBe('wait');
  expect(budget.admit(0, 100)).toEqual({ slots: 8, positions: 128 });
});
