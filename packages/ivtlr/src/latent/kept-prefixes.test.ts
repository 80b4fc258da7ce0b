/** What rows leave behind: pictures are encoded once, prompts that begin alike are not run again, and answers stay the same. */
import { liveTensorCount, scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { TINY_IDS, tinyImage, tinyModel } from '../../../../test/tiny-model.ts';
import type { VisionLanguageModel } from '../models/types.ts';
import { LATENT_DEFAULTS } from './options.ts';
import type { RowRequest } from './row.ts';
import { RowBatch } from './row-batch.ts';

setNumThreads(1);
let model: VisionLanguageModel;
let baseline = 0;
beforeAll(() => {
  model = tinyModel({ seed: 3 });
  scope(() => {
    const batch = plain();
    ask(batch, request({}));
    batch.dispose();
  });
  baseline = liveTensorCount();
});
afterEach(() => {
  vi.restoreAllMocks();
  expect(liveTensorCount()).toBe(baseline);
});
afterAll(() => model.module.dispose());

const GRID: [number, number] = [3, 4];

function request({
  picture = 1,
  question = [7],
  latentSteps = 2,
  maxNewTokens = 4,
  positions = 'sequential' as const,
}): RowRequest {
  const before = Array.from({ length: 6 }, (_, i) => 1 + i);
  return {
    promptIds: [...before, ...new Array<number>(12).fill(TINY_IDS.image), ...question],
    images: [tinyImage(GRID, picture)],
    ...{ imageKeys: [String(picture)], latentSteps, afterLatentIds: [] },
    options: { ...LATENT_DEFAULTS, positions, patches: 2, maxNewTokens, eosIds: [], trace: true },
  };
}

/** Answers; `positions` are those that the model ran. */
function ask(batch: RowBatch, asked: RowRequest) {
  let positions = 0;
  const forwardRows = model.forwardRows.bind(model);
  const spy = vi.spyOn(model, 'forwardRows').mockImplementation((inputs, options) => {
    positions += inputs.shape[1]!;
    return forwardRows(inputs, options);
  });
  const [row] = batch.add([asked]);
  while (batch.size > 0) batch.step();
  spy.mockRestore();
  return { positions, tokens: row!.tokens, picked: row!.picked, traces: row!.traces };
}

const kept = () => new RowBatch(model, { slots: 4, capacity: 64, keptImageBytes: 1e6 });
const plain = () => new RowBatch(model, { slots: 4, capacity: 64 });

test('the same picture is encoded once, another one anew, and the bytes are bounded', () => {
  scope(() => {
    const encode = vi.spyOn(model, 'encodeImages');
    const batch = kept();
    for (const picture of [1, 1, 2, 1, 2]) ask(batch, request({ picture }));
    expect(encode).toHaveBeenCalledTimes(2);
    batch.dispose();
    const small = new RowBatch(model, { slots: 4, keptImageBytes: 12 * model.hiddenSize * 4 });
    for (const picture of [1, 2, 1]) ask(small, request({ picture }));
    expect(encode).toHaveBeenCalledTimes(5);
    small.dispose();
  });
});

test('a prompt that begins like one before runs from where it differs, and is answered as alone', () => {
  scope(() => {
    const batch = kept();
    for (const [asked, reused] of [
      [request({ question: [7, 8, 9, 10] }), 0],
      [request({ question: [7, 8, 11] }), 20],
      [request({ question: [7, 8, 11] }), 20],
      [request({ question: [7, 8, 11], latentSteps: 0 }), 20],
      [request({ picture: 2, question: [7, 8, 11] }), 0],
      [request({ picture: 1, question: [7, 8, 11, 12] }), 21],
      [request({ question: [7, 8, 11], positions: 'mrope' as never }), 0],
    ] as const) {
      const other = plain();
      const alone = ask(other, asked);
      other.dispose();
      const got = ask(batch, asked);
      expect(alone.positions - got.positions).toBe(reused);
      expect([got.tokens, got.picked]).toEqual([alone.tokens, alone.picked]);
      for (const [t, { scores }] of got.traces.entries())
        for (const [i, score] of scores.entries()) expect(score).toBeCloseTo(alone.traces[t]!.scores[i]!, 5);
    }
    batch.dispose();
  });
});

test('a conversation goes on behind what was written, several of them in turn', () => {
  scope(() => {
    const batch = kept();
    const first = [1, 2, 3].map((picture) => ask(batch, request({ picture, latentSteps: 0 })));
    for (const [i, picture] of [1, 2, 3].entries()) {
      const question = [7, ...first[i]!.tokens, 9, 10];
      const asked = request({ picture, question, latentSteps: 0 });
      const other = plain();
      const alone = ask(other, asked);
      other.dispose();
      const got = ask(batch, asked);
      // The last token that was written never ran.
      expect(alone.positions - got.positions).toBe(19 + first[i]!.tokens.length - 1);
      expect(got.tokens).toEqual(alone.tokens);
    }
    batch.dispose();
  });
});

test('a row that was taken out leaves what it had run', () => {
  scope(() => {
    const batch = new RowBatch(model, { slots: 4, capacity: 64, keptImageBytes: 1e6, pieceTokens: 17 });
    const [row] = batch.add([request({ question: [7, 8, 9] })]);
    batch.step();
    batch.remove(row!);
    const got = ask(batch, request({ question: [7, 8, 9] }));
    const other = plain();
    const alone = ask(other, request({ question: [7, 8, 9] }));
    other.dispose();
    expect(alone.positions - got.positions).toBe(17);
    expect(got.tokens).toEqual(alone.tokens);
    batch.dispose();
  });
});
