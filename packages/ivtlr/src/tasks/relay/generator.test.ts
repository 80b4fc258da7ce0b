import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type RenderOptions,
  renderInference,
  renderSupervised,
  renderTraining,
  splitSteps,
  tokenizeSample,
} from '../../data/render.ts';
import type { RawImage } from '../../data/sample.ts';
import { qwen2VlPrompts } from '../../models/qwen2-vl/prompts.ts';
import { loadChatTemplate } from '../../text/chat-template.ts';
import { Tokenizer } from '../../text/tokenizer.ts';
import { CELL, COLOURS, GRID, IMAGE_SIDE } from '../dominoes/image.ts';
import { readSamples } from '../read-samples.ts';
import { SPLITS } from '../task.ts';
import { UNKNOWN, writeWordTokenizer } from '../word-tokenizer.ts';
import { checkOptions, digitReading, imageReading, parseSampleId, RULES, relaySample } from './generator.ts';
import { makeRelay } from './make.ts';
import { relay, relay6, relayAdd } from './relay.ts';
import { RELAY_VOCABULARY } from './vocabulary.ts';

interface Seen {
  to: string;
  dots: number;
  cell: number;
}

/** What lies in each cell, read off the pixels as a person would: by left colour. */
function look(image: RawImage): Map<string, Seen> {
  if (image.kind !== 'rgb') throw new Error('not drawn');
  const seen = new Map<string, Seen>();
  for (let cell = 0; cell < GRID * GRID; cell++) {
    const at = (x: number, y: number) => {
      const offset = ((Math.floor(cell / GRID) * CELL + y) * IMAGE_SIDE + (cell % GRID) * CELL + x) * 3;
      return [...image.data.slice(offset, offset + 3)];
    };
    const nearest = (pixel: number[]) => {
      const far = ([, ...rgb]: (typeof COLOURS)[number]) =>
        rgb.reduce<number>((sum, v, i) => sum + (v - pixel[i]!) ** 2, 0);
      return [...COLOURS].sort((a, b) => far(a) - far(b))[0]![0];
    };
    if (at(14, 16).every((value) => value === 0)) continue;
    const bright = Array.from({ length: CELL }, (_, x) => at(x, 4).every((value) => value > 120));
    const dots = bright.filter((isBright, x) => isBright && !bright[x - 1]).length;
    seen.set(nearest(at(8, 16)), { to: nearest(at(20, 16)), dots, cell });
  }
  return seen;
}

const dials = fc
  .record({
    hops: fc.integer({ min: 2, max: 8 }),
    more: fc.integer({ min: 0, max: 6 }),
    share: fc.constantFrom(0, 0.25, 0.5, 1),
    digits: fc.integer({ min: 2, max: 4 }),
    rule: fc.constantFrom(...RULES),
  })
  .map(({ more, ...given }) => checkOptions({ ...given, dominoes: Math.min(8, given.hops + more) }));
const anySample = fc
  .tuple(fc.nat(1e9), fc.constantFrom(...SPLITS), fc.nat(1e6), dials)
  .map(([seed, split, index, options]) => ({ options, sample: relaySample(seed, split, index, options) }));

describe('questions', () => {
  test('the answer can be read off the image, step by step, at the cells the sample names', () => {
    fc.assert(
      fc.property(anySample, ({ options, sample }) => {
        const seen = look(sample.images[0]!);
        expect(seen.size).toBe(options.dominoes);
        const asked = /^Start at (\w+) with (\d), follow (\d) dominoes: which digit\?$/.exec(sample.question)!;
        expect(Number(asked[3])).toBe(options.hops);
        let [colour, digit] = [asked[1]!, Number(asked[2])];
        const steps: string[] = [];
        for (let hop = 0; hop < options.hops; hop++) {
          const { to, dots, cell } = seen.get(colour)!;
          expect(sample.pickTargets![hop]).toEqual([cell]);
          digit = options.rule === 'add' ? ((digit + dots - 1) % options.digits) + 1 : dots || digit;
          expect(sample.carried!.targets[hop]).toBe(String(digit));
          steps.push(`${colour} to ${to} plus ${dots} is ${digit}`);
          colour = to;
        }
        expect(splitSteps(sample.rationale, 99)).toEqual(steps);
        expect(sample.answer).toBe(String(digit));
        expect(digit).toBeLessThanOrEqual(options.digits);
        expect(sample.choices).toEqual([]);
      }),
      { numRuns: 150 },
    );
  });

  test('by count: neither the first digit, nor the last domino, nor any one domino says the answer', () => {
    const samples = 2000;
    const right = { first: 0, last: 0, hop: [0, 0, 0], common: 0 };
    const answers = new Map<string, number>();
    for (let index = 0; index < samples; index++) {
      const { question, rationale, answer, images } = relaySample(8, 'train', index);
      answers.set(answer, (answers.get(answer) ?? 0) + 1);
      const dots = splitSteps(rationale, 9).map((step) => step.split(' ')[4]!);
      if (/with (\d)/.exec(question)![1] === answer) right.first++;
      if (dots.at(-1) === answer) right.last++;
      dots.forEach((count, hop) => {
        if (count === answer) right.hop[hop]!++;
      });
      const shown = [...look(images[0]!).values()].map(({ dots }) => String(dots)).filter((count) => count !== '0');
      const often = (count: string) => shown.filter((other) => other === count).length;
      if ([...shown].sort((a, b) => often(b) - often(a))[0] === answer) right.common++;
    }
    const share = (count: number) => count / samples;
    expect([...answers.values()].every((count) => count === samples / 4)).toBe(true);
    expect(Math.abs(share(right.first) - 0.25)).toBeLessThan(0.04);
    expect(right.last).toBe(0);
    // Each of the two decides in half of the cases. Where the second does, the first has the same dots in an eighth by luck.
    expect(Math.abs(share(right.hop[0]!) - 0.5625)).toBeLessThan(0.05);
    expect(Math.abs(share(right.hop[1]!) - 0.5)).toBeLessThan(0.05);
    expect(share(right.common)).toBeLessThan(0.6);
  });

  test('where dots are added, nothing but all of them says the answer', () => {
    const samples = 2000;
    const right = { first: 0, hop: [0, 0, 0], butOne: [0, 0, 0] };
    for (let index = 0; index < samples; index++) {
      const { question, rationale, answer } = relayAdd.generator!.sample(8, 'train', index);
      const first = Number(/with (\d)/.exec(question)![1]);
      const dots = splitSteps(rationale, 9).map((step) => Number(step.split(' ')[4]!));
      const all = dots.reduce((sum, number) => sum + number, first);
      expect(((all - 1) % 4) + 1).toBe(Number(answer));
      if (String(first) === answer) right.first++;
      dots.forEach((count, hop) => {
        if (String(count) === answer) right.hop[hop]!++;
        if (((all - count - 1) % 4) + 1 === Number(answer)) right.butOne[hop]!++;
      });
    }
    for (const count of [right.first, ...right.butOne]) expect(Math.abs(count / samples - 0.25)).toBeLessThan(0.04);
    // Dots are 0 to 3, answers 1 to 4.
    for (const count of right.hop) expect(Math.abs(count / samples - 0.1875)).toBeLessThan(0.04);
  });

  test('of so many neighbours as there are digits each has another answer', () => {
    for (let block = 0; block < 40; block++) {
      const answers = [0, 1, 2, 3].map((i) => relaySample(5, 'test', block * 4 + i).answer);
      expect([...answers].sort()).toEqual(['1', '2', '3', '4']);
    }
  });

  test('a sample is a pure function of seed, split, index and dials, which its id says', () => {
    for (const rule of RULES) {
      const options = checkOptions({ hops: 5, dominoes: 8, share: 0.25, digits: 3, rule });
      const made = relaySample(12, 'validation', 34, options);
      expect(relaySample(12, 'validation', 34, options)).toEqual(made);
      expect(parseSampleId(made.id)).toEqual({ seed: 12, split: 'validation', index: 34, options });
    }
    expect(parseSampleId('dominoes-train-seed1-hops3-of7-4')).toBeNull();
    const ids = SPLITS.flatMap((split) => [0, 1].map((seed) => relaySample(seed, split, 3).rationale));
    expect(new Set(ids).size).toBe(6);
    expect(relay6.generator!.sample(1, 'test', 0).pickTargets).toHaveLength(6);
  });

  test.each([
    [{ hops: 1 }, /hops should be a whole number from 2 to 8, not 1/],
    [{ hops: 6, dominoes: 5 }, /dominoes should be a whole number from 6 to 8, not 5/],
    [{ digits: 5 }, /digits should be a whole number from 2 to 4, not 5/],
    [{ share: 1.5 }, /share .* from 0 to 1, not 1.5/],
  ])('dials %j are refused', (options, message) => {
    expect(() => checkOptions(options)).toThrow(message);
  });
});

test('each domino and its dots stay inside their cell', () => {
  for (let index = 0; index < 100; index++) {
    const { image } = imageReading(4, 'train', index, 1, { ...checkOptions(), share: 1 });
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

describe('texts', () => {
  let folder = '';
  let tokenizer: Tokenizer;
  let options: RenderOptions;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'ivtlr-relay-'));
    writeWordTokenizer(folder, RELAY_VOCABULARY);
    tokenizer = Tokenizer.fromFolder(folder);
    options = {
      tokenizer,
      chatTemplate: loadChatTemplate(folder),
      profile: qwen2VlPrompts('consistent'),
      imageToken: '<|image_pad|>',
      latentToken: '<|latent|>',
      maxSteps: 8,
    };
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const names = (ids: readonly number[]) => ids.map((id) => tokenizer.idToToken(id));

  test('a training row: eight tokens a written step, seven for the answer; with all steps latent the answer alone', async () => {
    for (let hops = 2; hops <= 8; hops++) {
      const sample = relaySample(1, 'train', hops, checkOptions({ hops }));
      const tokenized = await tokenizeSample(sample, [{ tokens: 16 }], 'train', options);
      const steps = splitSteps(sample.rationale, 9).map((step) => [...step.split(' '), '\n']);
      const end = ['Therefore', ',', 'the', 'answer', 'is', sample.answer, '<|endoftext|>'];
      const whole = renderTraining(tokenized, { latentSteps: 0, droppedSteps: 0 });
      expect(names(whole.ids.slice(whole.latentStart))).toEqual([...steps.flat(), ...end]);
      expect(whole.ids.length - whole.latentStart).toBe(8 * hops + 7);
      const latent = renderTraining(tokenized, { latentSteps: hops, droppedSteps: hops });
      expect(names(latent.ids.slice(latent.latentStart + hops))).toEqual(end);
      expect(latent.pickTargets).toEqual(sample.pickTargets);
      expect(whole.ids).not.toContain(tokenizer.tokenToId(UNKNOWN));
      expect(tokenizer.decode([...whole.ids.slice(whole.latentStart)])).toBe(
        `${splitSteps(sample.rationale, 9).join('\n')}\nTherefore, the answer is ${sample.answer}`,
      );
      const asked = renderInference(await tokenizeSample(sample, [{ tokens: 16 }], 'infer', options), hops);
      expect(asked.ids).toEqual(latent.ids.slice(0, latent.latentStart + hops));
    }
  });

  test('pretraining lines are true and predict the far colour and the dots, or the digit', async () => {
    for (let index = 0; index < 30; index++) {
      const count = 1 + (index % 8);
      const reading = imageReading(2, 'train', index, count);
      const seen = look(reading.image!);
      const lines = reading.segments
        .map(({ text }) => text)
        .join('')
        .trim()
        .split('\n');
      expect(lines.length).toBe(count);
      for (const line of lines) {
        const [from, , to, , dots] = line.split(' ');
        expect(seen.get(from!)).toMatchObject({ to, dots: Number(dots) });
      }
      const predicted = reading.segments.filter(({ loss }) => loss).map(({ text }) => text);
      expect(predicted).toEqual(lines.flatMap((line) => [line.split(' ')[2], line.split(' ')[4]]));
      const rendered = await renderSupervised(reading, { tokens: 16 }, options);
      expect(rendered.ids).not.toContain(tokenizer.tokenToId(UNKNOWN));
      expect(names(rendered.ids.filter((_, i) => rendered.labels[i] !== -100))).toEqual(predicted);
      for (const rule of RULES) {
        const text = digitReading(2, 'train', index, 6, checkOptions({ rule }))
          .segments.map(({ text }) => text)
          .join('');
        for (const line of text.trim().split('\n')) {
          const [digit, , dots, , last] = line.split(' ').map(Number) as number[];
          expect(last).toBe(rule === 'add' ? ((digit! + dots! - 1) % 4) + 1 : dots || digit);
        }
      }
    }
    expect(() => imageReading(2, 'train', 0, 9)).toThrow(/1 to 8 dominoes, not 9/);
  });

  test("files in M3CoT's schema hold the same samples as are drawn", async () => {
    const out = join(folder, 'data');
    await makeRelay({ rows: 6, out, seed: 3, split: 'test', hops: 4 });
    const samples = await readSamples(out, relay, { split: 'test' });
    expect(samples.length).toBe(6);
    samples.forEach((sample, index) => {
      const { images, meta, ...drawn } = relaySample(3, 'test', index, checkOptions({ hops: 4 }));
      expect(sample).toMatchObject({ ...drawn, meta: { domain: meta.domain, topic: meta.topic } });
    });
  });
});

test('answers are scored by their digit', () => {
  const sample = relaySample(1, 'test', 0);
  const other = String((Number(sample.answer) % 4) + 1);
  const score = (generated: string) => relay.score(sample, { prompt: '', generated });
  expect(score(`Therefore, the answer is ${sample.answer}`)).toEqual({
    official: true,
    strict: true,
    predicted: sample.answer,
  });
  expect(score(`Therefore, the answer is ${other}`)).toEqual({ official: false, strict: false, predicted: other });
  expect(score(`the answer is ${other}. the answer is ${sample.answer}`)).toMatchObject({
    official: true,
    strict: false,
  });
  expect(score(sample.answer)).toEqual({ official: false, strict: false, predicted: null });
});
