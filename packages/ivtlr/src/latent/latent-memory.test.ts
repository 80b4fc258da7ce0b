/** `latentMemory: last` in numbers: what is held, and what is seen of what is gone. */
import { liveTensorCount, scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { TINY_IDS, tinyImage, tinyModel } from '../../../../test/tiny-model.ts';
import type { Qwen2VL } from '../models/qwen2-vl/model.ts';
import { LATENT_DEFAULTS, type LatentOptions } from './options.ts';
import { columnsOf, positionsOf, type RowRequest } from './row.ts';
import { RowBatch } from './row-batch.ts';

setNumThreads(1);
let model: Qwen2VL;
let baseline = 0;
let forward: Qwen2VL['forwardRows'];
beforeAll(() => {
  model = tinyModel({ seed: 3 });
  forward = model.forwardRows.bind(model);
  ask(4, {}); // rotary tables stay with the model once made
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => model.dispose());

const PATCHES = 2;
const NEW = 3;
const PROMPT = [1, 2, ...new Array<number>(12).fill(TINY_IDS.image), 3, 4];

function request(latentSteps: number, options: Partial<LatentOptions>): RowRequest {
  return {
    promptIds: PROMPT,
    images: [tinyImage([3, 4], 5)],
    latentSteps,
    // The first token is then chosen from a row of text.
    afterLatentIds: [8],
    options: {
      ...{ ...LATENT_DEFAULTS, patches: PATCHES, allowRepeats: true, pickOrder: 'score', ...options },
      ...{ maxNewTokens: NEW, eosIds: [], firstLogits: true },
    },
  };
}

/** Answers a question. `lengths`: columns that its slot holds after every pass; `next`: position of the token that follows. */
function ask(latentSteps: number, options: Partial<LatentOptions>) {
  return scope(() => {
    const asked = request(latentSteps, options);
    const lengths: number[] = [];
    const next: number[] = [];
    const forwardRows = vi.spyOn(model, 'forwardRows');
    const batch = new RowBatch(model);
    try {
      const [row] = batch.add([asked]);
      while (batch.size > 0) {
        const slot = row!.slot;
        const held = () => forwardRows.mock.lastCall![1].cache.length(slot);
        // The pass itself, before the next step's rows take the place of this one's.
        forwardRows.mockImplementationOnce((inputs, passed) => {
          const result = forward(inputs, passed);
          lengths.push(held());
          return result;
        });
        batch.step();
        next.push(row!.next);
      }
      const most = { columns: columnsOf(asked), positions: positionsOf(asked) };
      return { most, lengths, next, bytes: batch.cacheBytes, logits: row!.firstLogits };
    } finally {
      forwardRows.mockRestore();
      batch.dispose();
    }
  });
}

const prompt = PROMPT.length;
const rows = PATCHES + 1;

test('with last, a step adds no column to the cache and none to what is read, however many there are; positions go on', () => {
  // Text begins in the pass of the last step.
  const passes = (T: number, step: (t: number) => number) => [
    prompt,
    ...Array.from({ length: T }, (_, t) => step(t + 1) + (t === T - 1 ? 1 : 0)),
    ...Array.from({ length: NEW - 1 }, (_, n) => step(T) + 1 + n + 1),
  ];
  for (const T of [1, 2, 5, 30]) {
    const last = ask(T, { latentMemory: 'last' });
    expect(last.lengths).toEqual(passes(T, () => prompt + rows));
    const all = ask(T, {});
    expect(all.lengths).toEqual(passes(T, (t) => prompt + t * rows));
    expect(last.next).toEqual(all.next);
    expect(last.most.columns).toBe(prompt + rows + 1 + NEW);
    expect(all.most.columns).toBe(prompt + T * rows + 1 + NEW);
    expect(last.most.positions).toBe(all.most.positions);
  }
  const bytes = (T: number, latentMemory: 'all' | 'last') => ask(T, { latentMemory }).bytes;
  expect(bytes(30, 'last')).toBe(bytes(1, 'last'));
  expect(bytes(30, 'all') - bytes(1, 'all')).toBe((bytes(1, 'last') / (prompt + rows + 1 + NEW)) * 29 * rows);
});

test('what is hidden is what the answer depends on', () => {
  const logits = (options: Partial<LatentOptions>, T = 2) => ask(T, options).logits;
  const plain = logits({});
  const variants = [
    logits({ hideImageFromLatents: true }),
    logits({ latentMemory: 'last' }),
    logits({ latentMemory: 'last', hideImageFromText: true }),
    logits({ hideImageFromText: true }),
  ];
  for (const other of variants) expect(other).not.toEqual(plain);
  expect(new Set(variants.map(String)).size).toBe(4);
  // The first step has none before it, so `last` then only hides the image from its rows.
  const close = (a: number[], b: number[]) => Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));
  expect(close(logits({ latentMemory: 'last' }, 1), logits({ hideImageFromLatents: true }, 1))).toBeLessThan(1e-6);
  // With last, hiding the image from latent rows as well changes nothing.
  expect(logits({ latentMemory: 'last', hideImageFromLatents: true })).toEqual(logits({ latentMemory: 'last' }));
  // Without latent steps nothing is forgotten, and without image nothing is hidden from text.
  expect(logits({ latentMemory: 'last' }, 0)).toEqual(logits({}, 0));
});
