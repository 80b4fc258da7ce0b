/** Latent reasoning at inference: batches, events, ends, and what is freed. */
import { inferenceMode, liveTensorCount, scope, setNumThreads, stack, type Tensor } from '@ivtlr/torch';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { TINY_IDS, type TinyRow, tinyBatch, tinyModel } from '../../../../test/tiny-model.ts';
import type { Qwen2VL } from '../models/qwen2-vl/model.ts';
import { type GenerateEvent, type GenerateOptions, type GenerateResult, generate, generateAll } from './generate.ts';
import { LATENT_DEFAULTS } from './options.ts';
import { embedPrompt, Sequence, toIds } from './sequence.ts';

setNumThreads(1);

const ROWS: TinyRow[] = [
  { before: [1, 2, 3], after: [4, 5], grid: [3, 4], latentSteps: 3, seed: 1 },
  { before: [6], after: [7, 8, 9, 10, 11, 12], grid: [2, 3], latentSteps: 3, seed: 2 },
  { before: [13, 14], after: [15], grid: [4, 2], latentSteps: 3, seed: 3 },
];
const OPTIONS: GenerateOptions = {
  ...LATENT_DEFAULTS,
  patches: 4,
  maxNewTokens: 6,
  eosIds: [],
  trace: true,
  firstLogits: true,
};

let model: Qwen2VL;
let baseline = 0;
beforeAll(() => {
  model = tinyModel({ seed: 3 });
  // Rotary tables stay with the model once made.
  scope(() => inferenceMode(() => embedPrompt(model, tinyBatch(ROWS), 'sequential')));
  run(ROWS.slice(0, 1));
  baseline = liveTensorCount();
});
afterEach(() => expect(liveTensorCount()).toBe(baseline));
afterAll(() => model.dispose());

function run(rows: readonly TinyRow[], options: Partial<GenerateOptions> = {}): GenerateResult {
  return scope(() => generateAll(model, tinyBatch(rows), { ...OPTIONS, ...options }));
}

function expectClose(got: readonly number[], wanted: readonly number[], tolerance = 1e-4): void {
  expect(got.length).toBe(wanted.length);
  got.forEach((value, i) => {
    expect(Math.abs(value - wanted[i]!)).toBeLessThan(tolerance);
  });
}

const VARIANTS: [string, Partial<GenerateOptions>, TinyRow[]?][] = [
  ['enough tokens for every step', { patches: 2 }],
  ['different numbers left, some rows with none', {}],
  ['reuse', { onExhausted: 'reuse' }],
  ['image hidden from latent rows', { hideImageFromLatents: true }],
  ['memory of one step', { latentMemory: 'last' }],
  ['memory of one step, image hidden from text', { latentMemory: 'last', hideImageFromText: true, positions: 'mrope' }],
  ['image hidden from text alone', { hideImageFromText: true }],
  ['M-RoPE positions', { positions: 'mrope' }],
  [
    'M-RoPE positions and hidden image, by score',
    { positions: 'mrope', hideImageFromLatents: true, pickOrder: 'score' },
  ],
  ['without latent text', { latentText: 'off', patches: 2 }],
  [
    'without latent text, different numbers left',
    { latentText: 'off', patches: 5 },
    ROWS.map((row) => ({ ...row, latentSteps: 2 })).filter((row) => row.seed !== 2),
  ],
  ['without latent vision', { latentVision: 'off' }],
  ['repeats allowed', { allowRepeats: true }],
  ['no latent steps', {}, ROWS.map((row) => ({ ...row, latentSteps: 0 }))],
  ['tokens behind the slots', {}, ROWS.map((row) => ({ ...row, text: [20, 21] }))],
  [
    'tokens behind no slots, image hidden from them',
    { hideImageFromText: true },
    ROWS.map((row) => ({ ...row, latentSteps: 0, text: [20] })),
  ],
  ['tokens behind no slots', {}, ROWS.map((row) => ({ ...row, latentSteps: 0, text: [20] }))],
  ['a row without image', {}, [ROWS[0]!, { ...ROWS[1]!, grid: null }]],
  ['rows of equal length', {}, [ROWS[0]!, { ...ROWS[0]!, seed: 9 }]],
];

describe.each(VARIANTS)('a batch gives what its rows give alone: %s', (_, options, rows = ROWS) => {
  test('picks, traces, tokens, logits', () => {
    const together = run(rows, options);
    expect(together.tokens.every((row) => row.length === 6)).toBe(true);
    rows.forEach((row, b) => {
      const alone = run([row], options);
      expect(together.traces[b]!.map(({ picked }) => picked)).toEqual(alone.traces[0]!.map(({ picked }) => picked));
      expect(together.tokens[b]).toEqual(alone.tokens[0]);
      expect(together.autoregressiveSteps[b]).toBe(row.latentSteps + 6);
      expectClose(together.firstLogits[b]!, alone.firstLogits[0]!);
      together.traces[b]!.forEach((trace, t) => {
        const wanted = alone.traces[0]![t]!;
        expectClose(trace.scores, wanted.scores, 1e-5);
        expectClose([trace.attentionRatio], [wanted.attentionRatio], 1e-3 * Math.max(1, wanted.attentionRatio));
      });
    });
    // The rows are different questions: a batch that mixes them up would show.
    expect(together.firstLogits[0]).not.toEqual(together.firstLogits[1]);
  });
});

test('ragged steps happened above', () => {
  const counts = run(ROWS).traces.map((steps) => steps.map(({ picked }) => picked.length));
  expect(counts).toEqual([
    [4, 4, 4],
    [4, 2, 0],
    [4, 4, 0],
  ]);
});

test.each([false, true])('the cache changes nothing: one uncached pass over everything, hidden image %s', (hide) => {
  const options = { ...OPTIONS, hideImageFromLatents: hide };
  const result = run(ROWS, options);
  scope(() =>
    inferenceMode(() => {
      const prompt = embedPrompt(model, tinyBatch(ROWS), 'sequential');
      const sequence = new Sequence(model, prompt, null, { hideImageFromLatents: hide });
      // The inserted rows, made again from the picks and from passes over all that came before.
      const before: { rows: Tensor; mask: number[][] }[] = [];
      const replay = () => {
        const fresh = new Sequence(model, prompt, null, { hideImageFromLatents: hide });
        for (const { rows, mask } of before) fresh.push(rows, { mask, latent: true });
        return fresh.run();
      };
      for (let t = 0; t < 3; t++) {
        const { hidden } = replay();
        const K = Math.max(...result.traces.map((trace) => trace[t]!.picked.length));
        const h = hidden.select(1, hidden.shape[1]! - 1).unsqueeze(1);
        const lead = ROWS.map((_, b) => {
          const { picked } = result.traces[b]![t]!;
          return [...new Array<number>(K - picked.length).fill(-1), ...picked];
        });
        for (let k = 0; k < K; k++) {
          const column = lead.map((row, b) => prompt.images!.select(0, b).select(0, Math.max(0, row[k]!)));
          before.push({ rows: stack(column).unsqueeze(1), mask: lead.map((row) => [row[k]! < 0 ? 0 : 1]) });
        }
        before.push({ rows: h, mask: ROWS.map(() => [1]) });
      }
      for (const { rows, mask } of before) sequence.push(rows, { mask, latent: true });
      sequence.push(
        model.embed(
          toIds(
            result.tokens.map((row) => row.slice(0, 5)),
            'cpu',
          ),
        ),
      );
      const { hidden } = sequence.run();
      const S = hidden.shape[1]!;
      const logits = model.logits(hidden.narrow(1, S - 6, 6));
      expect(logits.argmax(-1).tolist()).toEqual(result.tokens);
      result.firstLogits.forEach((row, b) => {
        expectClose(row, logits.select(0, b).select(0, 0).toNumbers());
      });
    }),
  );
});

describe('tokens behind the latent slots', () => {
  test.each([0, 3])('are read as if the model had written them, %i latent steps', (latentSteps) => {
    const rows = ROWS.map((row) => ({ ...row, latentSteps }));
    const free = run(rows, { traceText: true });
    const withText = rows.map((row, b) => ({ ...row, text: free.tokens[b]!.slice(0, 2) }));
    const result = run(withText, { maxNewTokens: 4, traceText: true });
    expect(result.tokens).toEqual(free.tokens.map((row) => row.slice(2)));
    expect(result.autoregressiveSteps).toEqual([latentSteps + 4, latentSteps + 4, latentSteps + 4]);
    result.textTraces.forEach((traces, b) => {
      traces.forEach((trace, n) => {
        const wanted = free.textTraces[b]![n + 2]!;
        expectClose(trace.scores, wanted.scores, 1e-5);
        expectClose([trace.attentionRatio], [wanted.attentionRatio], 1e-3 * Math.max(1, wanted.attentionRatio));
      });
    });
  });

  test('may be of different number', () => {
    const rows = ROWS.map((row, b) => ({ ...row, text: [20, 21].slice(0, 1 + (b % 2)) }));
    const together = run(rows);
    rows.forEach((row, b) => {
      const alone = run([row]);
      expect(together.tokens[b]).toEqual(alone.tokens[0]);
      expectClose(together.firstLogits[b]!, alone.firstLogits[0]!, 1e-5);
    });
  });
});

test('nothing is read that nobody asked for', () => {
  const bare = run(ROWS, { trace: false, firstLogits: false });
  const full = run(ROWS);
  expect(bare.traces).toEqual([[], [], []]);
  expect(bare.firstLogits).toEqual([[], [], []]);
  expect(bare.picked).toEqual(full.traces.map((steps) => steps.map(({ picked }) => picked)));
  expect(bare.tokens).toEqual(full.tokens);
});

describe('events', () => {
  const collect = (rows: readonly TinyRow[], options: Partial<GenerateOptions> = {}) =>
    scope(() => {
      const events: GenerateEvent[] = [];
      const running = generate(model, tinyBatch(rows), { ...OPTIONS, ...options });
      for (;;) {
        const next = running.next();
        if (next.done) return { events, result: next.value };
        events.push(next.value);
      }
    });

  test('latent steps in order, then tokens, then the end', () => {
    const { events, result } = collect(ROWS, { maxNewTokens: 2 });
    expect(events.map(({ type }) => type)).toEqual([
      'latent-step',
      'latent-step',
      'latent-step',
      'tokens',
      'tokens',
      'end',
    ]);
    const steps = events.filter((event) => event.type === 'latent-step');
    expect(steps.map(({ step }) => step)).toEqual([0, 1, 2]);
    expect(steps.map(({ traces }) => traces[1])).toEqual(result.traces[1]);
    expect(steps.map(({ picked }) => picked[1])).toEqual(result.picked[1]);
    const tokens = events.filter((event) => event.type === 'tokens').map((event) => event.tokens);
    expect(tokens).toEqual([0, 1].map((n) => result.tokens.map((row) => row[n])));
    const { prefill, latents, decode } = result.seconds;
    expect(Math.min(prefill, latents, decode)).toBeGreaterThan(0);
  });

  test('at most maxNewTokens; none at all is possible', () => {
    expect(run(ROWS, { maxNewTokens: 1 }).tokens.map((row) => row.length)).toEqual([1, 1, 1]);
    const { events, result } = collect(ROWS, { maxNewTokens: 0 });
    expect(events.map(({ type }) => type)).toEqual(['latent-step', 'latent-step', 'latent-step', 'end']);
    expect(result).toMatchObject({ tokens: [[], [], []], firstLogits: [[], [], []], autoregressiveSteps: [3, 3, 3] });
  });

  test('an end-of-text token ends its row, as the first token too, and others go on', () => {
    const free = run(ROWS).tokens;
    // Any token a row writes can play the end of text.
    const eosIds = [free[0]![0]!, free[1]![2]!];
    const { events, result } = collect(ROWS, { eosIds });
    const cut = free.map((row) => {
      const end = row.findIndex((id) => eosIds.includes(id));
      return end < 0 ? row : row.slice(0, end + 1);
    });
    expect(result.tokens).toEqual(cut);
    expect(result.tokens[0]).toEqual([eosIds[0]]);
    expect(result.autoregressiveSteps).toEqual(cut.map((row) => row.length + 3));
    const tokens = events.filter((event) => event.type === 'tokens').map((event) => event.tokens);
    expect(tokens.length).toBe(Math.max(...cut.map((row) => row.length)));
    expect(tokens[1]![0]).toBeNull();
  });

  test('decoding stops when all rows have ended', () => {
    const first = run(ROWS).tokens.map((row) => row[0]!);
    expect(run(ROWS, { eosIds: [...first, TINY_IDS.eos] }).tokens).toEqual(first.map((id) => [id]));
  });
});

describe('a consumer that stops early leaves nothing behind', () => {
  test.each([1, 2, 3, 4, 5])('after %i events', (count) => {
    scope(() => {
      const batch = tinyBatch(ROWS);
      const own = liveTensorCount();
      const running = generate(model, batch, OPTIONS);
      for (let i = 0; i < count; i++) expect(running.next().done).toBe(false);
      expect(liveTensorCount()).toBeGreaterThan(own);
      const stopped = running.return(null as never);
      expect(stopped.done).toBe(true);
      expect(liveTensorCount()).toBe(own);
    });
  });

  test('a generator never started, and one whose step throws', () => {
    scope(() => {
      const batch = tinyBatch(ROWS);
      const own = liveTensorCount();
      generate(model, batch, OPTIONS).return(null as never);
      expect(liveTensorCount()).toBe(own);
      expect(() => generateAll(model, batch, { ...OPTIONS, onExhausted: 'error' })).toThrow(/latent step 2 wants 4/);
      expect(liveTensorCount()).toBe(own);
    });
  });

  test('each event may be asked for in a scope of its own, or in none', async () => {
    const wanted = run(ROWS);
    const batch = tinyBatch(ROWS);
    const running = generate(model, batch, OPTIONS);
    let result: GenerateResult | undefined;
    for (let i = 0; !result; i++) {
      const next = i % 2 === 0 ? scope(() => running.next()) : running.next();
      if (next.done) result = next.value;
      await Promise.resolve(); // other code may run in between
    }
    expect(result.tokens).toEqual(wanted.tokens);
    for (const { pixels } of batch.images.flat()) pixels.dispose();
  });
});

test('two generations side by side do not disturb each other', () => {
  const wanted = [run([ROWS[0]!]), run([ROWS[1]!])];
  scope(() => {
    const running = [ROWS[0]!, ROWS[1]!].map((row) => generate(model, tinyBatch([row]), OPTIONS));
    const results: GenerateResult[] = [];
    while (results.filter(Boolean).length < 2)
      running.forEach((generator, i) => {
        const next = generator.next();
        if (next.done && next.value) results[i] = next.value;
      });
    expect(results.map(({ tokens }) => tokens)).toEqual(wanted.map(({ tokens }) => tokens));
  });
});
