import { expect, test } from 'vitest';
import { Tracer } from './trace.ts';

test('ratio and focus by hand, over two steps with patches of different number', () => {
  // Text, 3 image tokens, 2 text.
  const one = new Tracer(6, [1, 2, 3]);
  const a = one.step([0.1, 0.2, 0.1, 0.3, 0.1, 0.2], [2, 0]);
  expect(a.picked).toEqual([2, 0]);
  expect(a.pickedScores).toEqual([0.3, 0.2]);
  expect(a.scores).toEqual([0.2, 0.1, 0.3]);
  // Picked 0.5 over text 0.1 + 0.1 + 0.2.
  expect(a.attentionRatio).toBeCloseTo(0.5 / 0.4, 10);
  // Shares 1/3, 1/6, 1/2 of the image.
  const entropy = Math.log(3) / 3 + Math.log(6) / 6 + Math.log(2) / 2;
  expect(a.focus).toBeCloseTo(1 / (entropy + 1e-6), 10);
  // Text, 2 image tokens, 2 text.
  const two = new Tracer(5, [1, 2]);
  const b = two.step([0.15, 0.3, 0.1, 0.2, 0.2], [1]);
  expect(b.attentionRatio).toBeCloseTo(0.1 / 0.55, 10);
  expect(b.scores).toHaveLength(2);

  one.addImageTokens(2);
  one.addText(1);
  two.addImageTokens(1);
  two.addText(1);
  // Latent text counts as text, inserted patches do not.
  const c = one.step([0.1, 0.05, 0.1, 0.05, 0.1, 0.1, 0.2, 0.1, 0.2], [1]);
  expect(c.attentionRatio).toBeCloseTo(0.1 / (0.1 + 0.1 + 0.1 + 0.2), 10);
  const d = two.step([0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.3], [0]);
  expect(d.attentionRatio).toBeCloseTo(0.2 / (0.1 + 0.1 + 0.1 + 0.3), 10);
});

test('attention on one token alone is as focused as can be', () => {
  expect(new Tracer(6, [1, 2, 3]).step([0.5, 0, 0.5, 0, 0, 0], [1]).focus).toBeCloseTo(1e6, -1);
  expect(new Tracer(5, [1, 2]).step([0.5, 0.25, 0.25, 0, 0], [0]).focus).toBeCloseTo(1 / Math.log(2), 4);
});

test('without latent text no inserted row counts as text; without an image nothing is picked', () => {
  const none = new Tracer(6, []);
  expect(none.step([0.1, 0.1, 0.2, 0.2, 0.2, 0.2], [])).toMatchObject({
    picked: [],
    pickedScores: [],
    scores: [],
    attentionRatio: 0,
  });
  const tracer = new Tracer(6, [1, 2, 3]);
  tracer.step([0.1, 0.2, 0.1, 0.3, 0.1, 0.2], [0, 1]);
  tracer.addImageTokens(2);
  const next = tracer.step([0.1, 0, 0, 0, 0.1, 0.2, 0.3, 0.3], [2]);
  expect(next.attentionRatio).toBe(0);
  expect(next.pickedScores).toEqual([0]);
});

test('a written token looks at the best image tokens, used ones too, as many as there are', () => {
  const tracer = new Tracer(5, [1, 2, 3]);
  tracer.addText(1);
  const trace = tracer.token([0.1, 0.1, 0.3, 0.2, 0.1, 0.2], 2);
  expect(trace.picked).toEqual([1, 2]);
  expect(trace.attentionRatio).toBeCloseTo(0.5 / 0.4, 10);
  expect(tracer.token([0.1, 0.1, 0.3, 0.2, 0.1, 0.2], 9).picked).toEqual([1, 2, 0]);
});

test('an image whose tokens stand in two runs: what is between them is text', () => {
  const trace = new Tracer(6, [1, 2, 4]).step([0.1, 0.2, 0.1, 0.3, 0.1, 0.2], [2, 0]);
  expect(trace.scores).toEqual([0.2, 0.1, 0.1]);
  expect(trace.pickedScores).toEqual([0.1, 0.2]);
  expect(trace.attentionRatio).toBeCloseTo(0.3 / 0.6, 10);
});
