/** Tokens that are read while the next pass runs are the same, and come one pass later. */
import { countCrossings, liveTensorCount, scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { TINY_IDS, tinyImage, tinyModel } from '../../../../test/tiny-model.ts';
import type { Qwen2VL } from '../models/qwen2-vl/model.ts';
import { LATENT_DEFAULTS } from './options.ts';
import type { RowOptions, RowRequest } from './row.ts';
import { RowBatch, type RowEvent } from './row-batch.ts';

setNumThreads(1);

let model: Qwen2VL;
let baseline = 0;
beforeAll(() => {
  model = tinyModel({ seed: 3 });
  run([{}], false);
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => model.dispose());

function request(options: Partial<RowOptions>): RowRequest {
  return {
    promptIds: [1, 2, ...new Array<number>(12).fill(TINY_IDS.image), 3],
    images: [tinyImage([3, 4], 1)],
    latentSteps: 2,
    afterLatentIds: [9],
    options: { ...LATENT_DEFAULTS, patches: 3, maxNewTokens: 7, eosIds: [], ...options },
  };
}

/** @param stopAfter tokens after which the first row is taken out, as a stop string does */
function run(options: readonly Partial<RowOptions>[], readLate: boolean, stopAfter = Number.POSITIVE_INFINITY) {
  return scope(() => {
    const batch = new RowBatch(model, { readLate });
    const passes: { events: RowEvent[]; reads: number }[] = [];
    try {
      const rows = batch.add(options.map(request));
      while (batch.size > 0) {
        const events: RowEvent[] = [];
        const { reads } = countCrossings(() => events.push(...batch.step()));
        passes.push({ events, reads });
        if (rows[0]!.tokens.length >= stopAfter) batch.remove(rows[0]!);
      }
      const results = rows.map(({ tokens, picked, traces, textTraces, logprobs, firstLogits }) => {
        return { tokens, picked, traces, textTraces, logprobs, firstLogits };
      });
      return { results, passes };
    } finally {
      batch.dispose();
    }
  });
}

const ALL: Partial<RowOptions>[] = [
  {},
  { trace: true, traceText: true, logprobs: 2, firstLogits: true },
  { sampling: { temperature: 1, topK: 20 }, seed: 4, maxNewTokens: 4 },
];

test('the same to the last bit, in one pass more and with one read a pass', () => {
  const [plain, late] = [run(ALL, false), run(ALL, true)];
  expect(late.results).toEqual(plain.results);
  expect(late.passes.length).toBe(plain.passes.length + 1);
  const tokens = (passes: typeof late.passes) =>
    passes.map(({ events }) => events.flatMap((event) => (event.type === 'token' ? [event.id] : [])));
  // The passes of two latent steps come first.
  expect(tokens(late.passes)).toEqual([[], [], [], ...tokens(plain.passes).slice(2)]);
  expect(late.passes.slice(2).map(({ reads }) => reads)).toEqual([0, 1, 1, 1, 1, 1, 1, 1]);
});

test('what was run of a row that had ended, or was taken out, is dropped; the others go on', () => {
  const [whole] = run([{}], false).results;
  const end = whole!.tokens.find((id, i) => i > 0 && whole!.tokens.indexOf(id) === i)!;
  const rows = [{}, { eosIds: [end] }];
  for (const stopAfter of [2, Number.POSITIVE_INFINITY]) {
    const [plain, late] = [run(rows, false, stopAfter), run(rows, true, stopAfter)];
    expect(late.results).toEqual(plain.results);
    expect(late.results[1]!.tokens.at(-1)).toBe(end);
    if (stopAfter === 2) expect(late.results[0]!.tokens).toEqual(whole!.tokens.slice(0, 2));
  }
});

test('a penalised row is read at once, and so is what runs with it', () => {
  const rows = [{ sampling: { repetitionPenalty: 1.5 } }, {}];
  const [plain, late] = [run(rows, false), run(rows, true)];
  expect(late.results).toEqual(plain.results);
  expect(late.passes).toHaveLength(plain.passes.length);
});
