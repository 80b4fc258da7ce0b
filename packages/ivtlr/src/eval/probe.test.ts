import { liveTensorCount } from '@ivtlr/torch';
import { afterEach, expect, it } from 'vitest';
import { UserError } from '../errors.ts';
import type { LatentState } from '../latent/row.ts';
import { Random } from '../random.ts';
import { LAST_WORD, ProbeSamples } from './probe.ts';

const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

/** Numbers around 0, with that of the value's place raised. */
function noisy(random: Random, value: number | null): Float32Array {
  return Float32Array.from({ length: 6 }, (_, i) => random.between(-1, 1) + (i === value ? 4 : 0));
}

/** Samples whose second latent text holds the value of the first written step, and whose first picks hold that of the second. */
function samples(count: number, pattern = LAST_WORD): ProbeSamples {
  const random = new Random(5);
  const probed = new ProbeSamples(pattern);
  // Backwards: answers end in any order.
  for (let index = count - 1; index >= 0; index--) {
    const [first, second] = [random.below(4), random.below(4)];
    const states: LatentState[] = [
      { text: noisy(random, null), patches: noisy(random, second) },
      { text: noisy(random, first), patches: noisy(random, null) },
    ];
    probed.add(index, { rationale: `red to blue is ${first}. blue to green is ${second}.` }, states);
  }
  return probed;
}

it('finds a value where it is and not where it is not', () => {
  const { cells } = samples(400).probe(1);
  expect(cells.map(({ step, written }) => [step, written])).toEqual([
    [1, 1],
    [1, 2],
    [2, 1],
    [2, 2],
  ]);
  for (const cell of cells) {
    expect(cell).toMatchObject({ trained: 200, tested: 200, values: 4 });
    const held = { text: cell.step === 2 && cell.written === 1, patches: cell.step === 1 && cell.written === 2 };
    for (const part of ['text', 'patches'] as const) {
      const { accuracy, interval95 } = cell[part]!;
      if (held[part]) expect(accuracy).toBeGreaterThan(0.95);
      else expect(accuracy).toBeLessThan(0.4);
      expect(interval95[0]).toBeLessThan(accuracy);
    }
    for (const shuffled of [cell.textShuffled, cell.patchesShuffled!]) expect(shuffled.accuracy).toBeLessThan(0.4);
    expect(cell.mostFrequent).toBeLessThan(0.4);
  }
  expect(samples(400).probe(1)).toEqual(samples(400).probe(1));
});

it('takes what an expression finds', () => {
  expect(samples(400, / is (\d)/u).probe(1).cells).toEqual(samples(400).probe(1).cells);
});

it('refuses samples and values that would say nothing', () => {
  expect(() => samples(400, /nothing/u).probe(1)).toThrow(UserError);
  // Always the same word.
  expect(() => samples(400, /^(\w+) to/u).probe(1)).toThrow(
    /finds in the written steps: 2 different ones in 400 samples/,
  );
  expect(() => samples(15).probe(1)).toThrow(/at least 20 samples/);
  expect(() => new ProbeSamples(LAST_WORD).probe(1)).toThrow(/takes no latent steps/);
});
