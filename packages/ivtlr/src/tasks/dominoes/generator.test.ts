import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { splitSteps } from '../../data/render.ts';
import type { RawImage, Sample } from '../../data/sample.ts';
import { SPLITS } from '../task.ts';
import { checkOptions, dominoesSample, imageReading, optionReading, parseSampleId } from './generator.ts';
import { CELL, COLOURS, GRID, IMAGE_SIDE } from './image.ts';

const names: string[] = COLOURS.map(([name]) => name);

/** Reads a cell of an image as a person would: the two colours at the shapes' centres, by nearest name; null for a dark cell. */
function look(image: RawImage, cell: number): [string, string] | null {
  if (image.kind !== 'rgb') throw new Error('not drawn');
  const at = (x: number, y: number) => {
    const offset = ((Math.floor(cell / GRID) * CELL + y) * IMAGE_SIDE + (cell % GRID) * CELL + x) * 3;
    return [...image.data.slice(offset, offset + 3)];
  };
  const nearest = (pixel: number[]) => {
    const far = ([, ...rgb]: (typeof COLOURS)[number]) =>
      rgb.reduce<number>((sum, v, i) => sum + (v - pixel[i]!) ** 2, 0);
    return [...COLOURS].sort((a, b) => far(a) - far(b))[0]![0];
  };
  if (at(14, 14).every((value) => value === 0)) return null;
  return [nearest(at(8, 14)), nearest(at(20, 14))];
}

function dominoesIn(image: RawImage): Map<string, { to: string; cell: number }> {
  const found = new Map<string, { to: string; cell: number }>();
  for (let cell = 0; cell < GRID * GRID; cell++) {
    const seen = look(image, cell);
    if (seen) found.set(seen[0], { to: seen[1], cell });
  }
  return found;
}

const sizes = fc
  .tuple(fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 7 }))
  .map(([hops, more]) => ({ hops, dominoes: Math.min(8, hops + more) }));
const anySample = fc
  .tuple(fc.nat(1e9), fc.constantFrom(...SPLITS), fc.nat(1e6), sizes)
  .map(([seed, split, index, options]) => ({ options, sample: dominoesSample(seed, split, index, options) }));

describe('questions', () => {
  test('the answer can be read off the image, step by step, at the cells the sample names', () => {
    fc.assert(
      fc.property(anySample, ({ options, sample }) => {
        const seen = dominoesIn(sample.images[0]!);
        expect(seen.size).toBe(options.dominoes);
        let colour = /^Start at (\w+), follow (\d) domino(es)?: which colour\?$/.exec(sample.question)![1]!;
        const steps: string[] = [];
        for (let hop = 0; hop <= options.hops; hop++) {
          const { to, cell } = seen.get(colour)!;
          expect(sample.pickTargets![hop]).toEqual([cell]);
          if (hop === options.hops) break;
          steps.push(`${colour} to ${to}`);
          colour = to;
        }
        expect(sample.carried!.targets).toEqual(sample.rationale.split('. ').map((step) => step.split(' ').at(-1)));
        expect(sample.choices['ABCD'.indexOf(sample.answer)]).toBe(colour);
        expect(splitSteps(sample.rationale, 99)).toEqual([...steps, `${colour} is ${sample.answer}`]);
      }),
    );
  });

  test('choices: four different colours, the start never, one on the way, the rest later where there is room', () => {
    fc.assert(
      fc.property(anySample, ({ options, sample }) => {
        expect(new Set(sample.choices).size).toBe(4);
        const way = sample.rationale.split('. ').map((step) => step.split(' ')[0]!);
        expect(sample.choices).not.toContain(way[0]);
        const onTheWay = sample.choices.filter((choice) => way.slice(1, -1).includes(choice)).length;
        const laterThanAnswer = 8 - options.hops - 1;
        expect(onTheWay).toBe(options.hops === 1 ? 0 : Math.max(1, 3 - laterThanAnswer));
        const shown = [...dominoesIn(sample.images[0]!).keys()];
        if (options.dominoes >= options.hops + (options.hops === 1 ? 4 : 3)) {
          expect(sample.choices.every((choice) => shown.includes(choice))).toBe(true);
        }
      }),
    );
  });

  test('letters are balanced: of four neighbours each has another; the order of the letters is not always the same', () => {
    const orders = new Set<string>();
    for (let block = 0; block < 60; block++) {
      const letters = [0, 1, 2, 3].map((i) => dominoesSample(5, 'test', block * 4 + i).answer);
      expect([...letters].sort()).toEqual(['A', 'B', 'C', 'D']);
      orders.add(letters.join(''));
    }
    expect(orders.size).toBeGreaterThan(15);
  });

  test('nothing but the image gives the answer away: no place of the choices is right more often than another', () => {
    const onTheWayFirst = { first: 0, total: 0 };
    const colours = new Map<string, number>();
    for (let index = 0; index < 2000; index++) {
      const sample = dominoesSample(8, 'train', index);
      const right = sample.choices['ABCD'.indexOf(sample.answer)]!;
      colours.set(right, (colours.get(right) ?? 0) + 1);
      const wrong = sample.choices.filter((choice) => choice !== right);
      const way = sample.rationale.split('. ').map((step) => step.split(' ')[0]!);
      onTheWayFirst.total++;
      if (way.slice(1, -1).includes(wrong[0]!)) onTheWayFirst.first++;
    }
    for (const name of names) expect(Math.abs(colours.get(name)! - 250)).toBeLessThan(60);
    expect(Math.abs(onTheWayFirst.first / onTheWayFirst.total - 1 / 3)).toBeLessThan(0.05);
  });

  test('a sample is a pure function of seed, split, index and size', () => {
    const twice = (make: () => Sample) => expect(make()).toEqual(make());
    twice(() => dominoesSample(1, 'train', 77));
    const images = new Set<string>();
    for (const split of SPLITS) {
      for (let index = 0; index < 50; index++) {
        for (const seed of [0, 1]) {
          const {
            images: [image],
          } = dominoesSample(seed, split, index);
          images.add(Buffer.from((image as { data: Uint8Array }).data).toString('base64'));
        }
      }
    }
    expect(images.size).toBe(300);
  });

  test('an id says what the sample was drawn from', () => {
    const options = checkOptions({ hops: 2, dominoes: 5 });
    const { id } = dominoesSample(12, 'validation', 34, options);
    expect(parseSampleId(id)).toEqual({ seed: 12, split: 'validation', index: 34, options });
    expect(parseSampleId('dominoes-12')).toBeNull();
  });

  test('options that allow no question are refused', () => {
    expect(() => checkOptions({ hops: 0 })).toThrow(/hops should be a whole number from 1 to 7, not 0/);
    expect(() => checkOptions({ hops: 3, dominoes: 3 })).toThrow(/from 4 \(hops \+ 1\) to 8, not 3/);
    expect(() => checkOptions({ dominoes: 9 })).toThrow(/not 9/);
    expect(checkOptions()).toEqual({ hops: 3, dominoes: 7 });
  });
});

describe('pretraining texts', () => {
  test('every line of an image text is true and predicts its far colour', () => {
    fc.assert(
      fc.property(fc.nat(1e6), fc.integer({ min: 1, max: 8 }), (index, count) => {
        const { image, segments } = imageReading(2, 'train', index, count);
        const seen = dominoesIn(image!);
        const lines = segments
          .map((segment) => segment.text)
          .join('')
          .split('\n')
          .slice(0, -1);
        expect([...lines].sort()).toEqual([...seen].map(([from, { to }]) => `${from} to ${to}`).sort());
        expect(segments.filter((segment) => segment.loss).map((segment) => segment.text)).toEqual(
          lines.map((line) => line.split(' ')[2]),
        );
      }),
    );
    expect(() => imageReading(2, 'train', 0, 9)).toThrow(/1 to 8 dominoes, not 9/);
  });

  test('option texts: lines repeat the options', () => {
    const { image, segments } = optionReading(2, 'train', 5, 20);
    expect(image).toBeUndefined();
    const text = segments.map((segment) => segment.text).join('');
    const [head, body] = text.split('Answer:\n');
    const options = new Map([...head!.matchAll(/\((.)\)\.\{(\w+)\}\n/g)].map(([, letter, name]) => [name, letter]));
    expect(options.size).toBe(4);
    const lines = body!.trim().split('\n');
    expect(lines.length).toBe(20);
    for (const line of lines) expect(options.get(line.split(' is ')[0])).toBe(line.split(' is ')[1]);
    expect(new Set(lines).size).toBeLessThanOrEqual(4);
    expect(segments.filter((segment) => segment.loss).map((segment) => segment.text)).toEqual(
      lines.map((line) => line.slice(-1)),
    );
  });
});

describe('images', () => {
  test('each domino stays inside its cell and empty cells are black', () => {
    for (let index = 0; index < 100; index++) {
      const { image } = imageReading(4, 'train', index, 1);
      if (image?.kind !== 'rgb') throw new Error('not drawn');
      const cells = new Set<number>();
      for (let at = 0; at < image.data.length; at += 3) {
        if (image.data[at]! + image.data[at + 1]! + image.data[at + 2]! === 0) continue;
        const pixel = at / 3;
        cells.add(Math.floor(Math.floor(pixel / IMAGE_SIDE) / CELL) * GRID + Math.floor((pixel % IMAGE_SIDE) / CELL));
      }
      expect(cells.size).toBe(1);
    }
  });

  test('edges are antialiased, sizes and shapes vary, colours stay within 12 levels', () => {
    const areas: number[] = [];
    let between = 0;
    for (let index = 0; index < 300; index++) {
      const { image } = imageReading(6, 'train', index, 1);
      if (image?.kind !== 'rgb') throw new Error('not drawn');
      let bright = 0;
      for (let at = 0; at < image.data.length; at += 3) {
        const peak = Math.max(image.data[at]!, image.data[at + 1]!, image.data[at + 2]!);
        if (peak > 150) bright++;
        if (peak > 80 && peak < 140) between++;
      }
      areas.push(bright);
      const cell = [...dominoesIn(image).values()][0]!.cell;
      const centre = ((Math.floor(cell / GRID) * CELL + 14) * IMAGE_SIDE + (cell % GRID) * CELL + 8) * 3;
      const levels = COLOURS.map(([, ...rgb]) => Math.max(...rgb.map((v, i) => Math.abs(v - image.data[centre + i]!))));
      expect(Math.min(...levels)).toBeLessThanOrEqual(13);
    }
    expect(between / 300).toBeGreaterThan(10);
    // Two diamonds of the smallest radius cover 2 * 2 * (4.2 * 1.15)^2 = 93 pixels, two squares of the largest 2 * (2 * 5.6 * .92)^2 = 212.
    expect(Math.min(...areas)).toBeGreaterThan(75);
    expect(Math.max(...areas)).toBeLessThan(235);
    expect(Math.max(...areas) - Math.min(...areas)).toBeGreaterThan(70);
  });
});
