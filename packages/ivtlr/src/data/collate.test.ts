import fc from 'fast-check';
import { expect, test } from 'vitest';
import { collate, groupByLatentSteps } from './collate.ts';
import type { Rendered } from './render.ts';

function row(prompt: number[], latentSteps: number, rest: number[]): Rendered {
  const head = [...prompt, ...new Array<number>(latentSteps).fill(9)];
  return {
    ids: [...head, ...rest],
    labels: [...head.map(() => -100), ...rest],
    latentStart: prompt.length,
    latentSteps,
    imageTokens: 2,
  };
}

test('prompts end in one column, rests are padded on the right', () => {
  const long = { ...row([1, 5, 5, 2], 2, [7, 8]), pickTargets: [[0], [1]] };
  const short = row([5, 5], 2, [6, 6, 6]);
  expect(collate<string>([long, short], [['P', 'Q'], []], 3)).toEqual({
    inputIds: [
      [1, 5, 5, 2, 9, 9, 7, 8, 3],
      [3, 3, 5, 5, 9, 9, 6, 6, 6],
    ],
    labels: [
      [-100, -100, -100, -100, -100, -100, 7, 8, -100],
      [-100, -100, -100, -100, -100, -100, 6, 6, 6],
    ],
    attentionMask: [
      [1, 1, 1, 1, 1, 1, 1, 1, 0],
      [0, 0, 1, 1, 1, 1, 1, 1, 1],
    ],
    latentStart: 4,
    latentSteps: 2,
    images: [['P', 'Q'], []],
    pickTargets: [[[0], [1]], null],
  });
});

test('misuse is refused', () => {
  expect(() => collate([], [], 0)).toThrow(RangeError);
  expect(() => collate([row([1], 1, [])], [], 0)).toThrow(/1 rows need as many lists of images, not 0/);
  expect(() => collate([row([1], 1, []), row([1], 2, [])], [[], []], 0)).toThrow(
    /same number of latent slots, not 1,2/,
  );
});

test('rows group by latent slots in order', () => {
  const rows = [row([1], 2, []), row([2], 1, []), row([3], 2, [])];
  expect(groupByLatentSteps(rows)).toEqual([[rows[0], rows[2]], [rows[1]]]);
});

test('for any rows: taking the pads away gives the rows back, slots are aligned, the width is minimal', () => {
  const ids = fc.array(fc.integer({ min: 10, max: 99 }), { minLength: 1, maxLength: 12 });
  const shapes = fc.array(fc.tuple(ids, fc.array(fc.integer({ min: 10, max: 99 }), { maxLength: 12 })), {
    minLength: 1,
    maxLength: 5,
  });
  fc.assert(
    fc.property(shapes, fc.integer({ min: 0, max: 4 }), (parts, latentSteps) => {
      const rows = parts.map(([prompt, rest]) => row(prompt, latentSteps, rest));
      const batch = collate(
        rows,
        rows.map(() => []),
        3,
      );
      batch.inputIds.forEach((padded, index) => {
        const source = rows[index]!;
        const real = padded.filter((_, column) => batch.attentionMask[index]![column] === 1);
        expect(real).toEqual(source.ids);
        expect(batch.labels[index]!.filter((label) => label !== -100)).toEqual(source.labels.filter((l) => l !== -100));
        expect(padded.slice(batch.latentStart, batch.latentStart + latentSteps)).toEqual(
          new Array(latentSteps).fill(9),
        );
        expect(batch.labels[index]!.length).toBe(padded.length);
      });
      const column = (index: number) => batch.attentionMask.some((mask) => mask[index] === 1);
      expect(column(0) && column(batch.inputIds[0]!.length - 1)).toBe(true);
    }),
  );
});
