import { liveTensorCount, scope, tensor, zeros } from '@ivtlr/torch';
import { afterEach, expect, test } from 'vitest';
import type { EmbeddedPrompt } from './sequence.ts';
import { Tracer } from './trace.ts';

const baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

/** Row 0: text, 3 image tokens, 2 text. Row 1: a pad, text, 2 image tokens, 2 text. */
function prompt(): EmbeddedPrompt {
  return {
    rows: zeros([2, 6, 4]),
    valid: tensor([
      [true, true, true, true, true, true],
      [false, true, true, true, true, true],
    ]),
    positions: zeros([1, 2, 6]),
    next: [6, 5],
    images: zeros([2, 3, 4]),
    imageTokens: [3, 2],
    imageStart: [1, 2],
  };
}

test('ratio and focus by hand, over two steps with patches of different number', () => {
  scope(() => {
    const tracer = new Tracer(prompt());
    const first = tracer.trace({
      picked: [[2, 0], [1]],
      imageScores: null,
      scores: tensor([
        [0.1, 0.2, 0.1, 0.3, 0.1, 0.2],
        [0.05, 0.15, 0.3, 0.1, 0.2, 0.2],
      ]),
      inserted: zeros([2, 3, 4]), // two patches (one padded in the second row), one latent text
      mask: null,
    });
    const [a, b] = first as [(typeof first)[0], (typeof first)[0]];
    expect(a.picked).toEqual([2, 0]);
    a.pickedScores.forEach((score, i) => {
      expect(score).toBeCloseTo([0.3, 0.2][i]!, 6);
    });
    a.scores.forEach((score, i) => {
      expect(score).toBeCloseTo([0.2, 0.1, 0.3][i]!, 6);
    });
    // Picked 0.5 over text 0.1 + 0.1 + 0.2.
    expect(a.attentionRatio).toBeCloseTo(0.5 / 0.4, 5);
    // Shares 1/3, 1/6, 1/2 of the image.
    const entropy = Math.log(3) / 3 + Math.log(6) / 6 + Math.log(2) / 2;
    expect(a.focus).toBeCloseTo(1 / (entropy + 1e-6), 4);
    // The pad's 0.05 is no text.
    expect(b.attentionRatio).toBeCloseTo(0.1 / 0.55, 5);
    expect(b.scores.length).toBe(2);

    const second = tracer.trace({
      picked: [[1], [0]],
      imageScores: null,
      // Columns 6 and 7 are inserted patches, 8 is latent text.
      scores: tensor([
        [0.1, 0.05, 0.1, 0.05, 0.1, 0.1, 0.2, 0.1, 0.2],
        [0, 0.1, 0.2, 0.1, 0.1, 0.1, 0, 0.1, 0.3],
      ]),
      inserted: zeros([2, 2, 4]),
      mask: null,
    });
    // Latent text counts as text, inserted patches do not.
    expect(second[0]!.attentionRatio).toBeCloseTo(0.1 / (0.1 + 0.1 + 0.1 + 0.2), 5);
    expect(second[1]!.attentionRatio).toBeCloseTo(0.2 / (0.1 + 0.1 + 0.1 + 0.3), 5);
  });
});

test('attention on one token alone is as focused as can be', () => {
  scope(() => {
    const scores = tensor([
      [0.5, 0, 0.5, 0, 0, 0],
      [0, 0.5, 0.25, 0.25, 0, 0],
    ]);
    const traces = new Tracer(prompt()).trace({
      picked: [[1], [0]],
      imageScores: null,
      scores,
      inserted: zeros([2, 2, 4]),
      mask: null,
    });
    expect(traces[0]!.focus).toBeCloseTo(1e6, -1);
    expect(traces[1]!.focus).toBeCloseTo(1 / Math.log(2), 4);
  });
});

test('without latent text no inserted row counts as text; without an image nothing is picked', () => {
  scope(() => {
    const tracer = new Tracer({ ...prompt(), imageTokens: [3, 0], imageStart: [1, -1], valid: null });
    const scores = tensor([
      [0.1, 0.2, 0.1, 0.3, 0.1, 0.2],
      [0.1, 0.1, 0.2, 0.2, 0.2, 0.2],
    ]);
    const [, none] = tracer.trace({
      picked: [[0, 1], []],
      imageScores: null,
      scores,
      inserted: zeros([2, 2, 4]),
      mask: null,
    });
    expect(none).toMatchObject({ picked: [], pickedScores: [], scores: [], attentionRatio: 0 });
    const wide = tensor([
      [0.1, 0, 0, 0, 0.1, 0.2, 0.3, 0.3],
      [0.1, 0, 0, 0, 0.1, 0.2, 0.3, 0.3],
    ]);
    const [next] = tracer.trace({
      picked: [[2], []],
      imageScores: null,
      scores: wide,
      inserted: zeros([2, 1, 4]),
      mask: null,
    });
    expect(next!.attentionRatio).toBe(0);
    expect(next!.pickedScores).toEqual([0]);
  });
});
