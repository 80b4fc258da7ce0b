/** Passes that are functions of tensors alone: recorded once, they give what ordinary passes give, and nothing but the contents of tensors changes. */
import {
  CudaGraph,
  countCrossings,
  cudaAvailable,
  liveTensorCount,
  scope,
  setNumThreads,
  TorchError,
} from '@ivtlr/torch';
import { afterEach, expect, test, vi } from 'vitest';
import { RunAgain } from '../../../../test/run-again.ts';
import { TINY_IDS, tinyImage, tinyModel } from '../../../../test/tiny-model.ts';
import { native } from '../../../torch/src/core/native.ts';
import { LATENT_DEFAULTS } from './options.ts';
import type { RowRequest } from './row.ts';
import { RowBatch, type RowBatchOptions, type RowEvent } from './row-batch.ts';
import type { GraphsOption } from './static-steps.ts';

setNumThreads(1);

/** Names of operators by their index: all that are looked up from here on. */
const names = new Map<number, string>();
const { findOp } = native;
native.findOp = (name, overload) => {
  const found = findOp(name, overload);
  names.set(found[0], overload ? `${name}.${overload}` : name);
  return found;
};

/** Bookkeeping of handles, which no device takes part in. */
const BOOKKEEPING = new Set(['findOp', 'release', 'watch', 'sweep', 'live', 'tensorInfo', 'tensorShape']);

/** What an argument says beside the contents of tensors. */
function describeArgument(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(describeArgument);
  if (typeof value !== 'object' || value === null || !('dtype' in value) || !('shape' in value)) return value;
  return `${value.dtype} [${value.shape}]`;
}

/** Every call of the addon that `body` makes. */
function callsOf(body: () => void): string[] {
  const calls: string[] = [];
  const all = native as unknown as Record<string, (...args: unknown[]) => unknown>;
  const before = { ...all };
  for (const [name, real] of Object.entries(before)) {
    if (typeof real !== 'function' || BOOKKEEPING.has(name)) continue;
    all[name] = (...args) => {
      const described = args.map(describeArgument);
      if (name === 'callOp') described[0] = names.get(args[0] as number);
      calls.push(`${name} ${JSON.stringify(described)}`);
      return real(...args);
    };
  }
  try {
    body();
  } finally {
    Object.assign(all, before);
  }
  return calls;
}

const model = tinyModel({ seed: 3 });
const [EARLY, LONG] = [
  { before: [1, 2, 3], after: [4, 5], latentSteps: 3, maxNewTokens: 12 },
  { before: [9], after: [8, 7, 6, 5, 4, 3], latentSteps: 2, maxNewTokens: 30 },
];

function request(plan: typeof EARLY, seed: number): RowRequest {
  const image = tinyImage([3, 4], seed);
  const { before, after, latentSteps, maxNewTokens } = plan;
  return {
    promptIds: [...before, ...new Array<number>(image.tokens).fill(TINY_IDS.image), ...after],
    images: [image],
    latentSteps,
    afterLatentIds: [11, 12],
    options: { ...LATENT_DEFAULTS, patches: 3, maxNewTokens, eosIds: [], trace: true, firstLogits: true, logprobs: 2 },
  };
}

/** One row, then another beside it, then a third when the first has left. */
function answers(graphs: GraphsOption, options: RowBatchOptions = {}, plans = [EARLY, LONG, EARLY], of = model) {
  return scope(() => {
    const batch = new RowBatch(of, { ...options, graphs });
    const events: RowEvent[] = [];
    const rows = [];
    for (let pass = 0; pass < 9 || batch.size > 0; pass++) {
      const next = [0, 4, 8].indexOf(pass);
      const plan = plans[next];
      if (plan) rows.push(...batch.add([request(plan, next)]));
      events.push(...batch.step());
    }
    batch.dispose();
    return rows.map((row) => ({
      ends: events.filter(({ type, row: own }) => own === row && type === 'end').length,
      picked: row.picked,
      tokens: row.tokens,
      numbers: [
        ...row.firstLogits,
        ...row.logprobs.flatMap(({ logprob, top }) => [logprob, ...top.map((one) => one.logprob)]),
        ...row.traces.flatMap(({ scores }) => scores),
      ],
    }));
  });
}

/** `got` is what `wanted` is, numbers within `tolerance`. */
function expectSame(got: ReturnType<typeof answers>, wanted: ReturnType<typeof answers>, tolerance = 1e-5): void {
  const whole = (list: typeof got) => list.map(({ ends, picked, tokens }) => ({ ends, picked, tokens }));
  expect(whole(got)).toEqual(whole(wanted));
  got.forEach(({ numbers }, i) => {
    expect(numbers.length).toBe(wanted[i]!.numbers.length);
    const far = numbers.map((value, j) => Math.abs(value - wanted[i]!.numbers[j]!)).filter((gap) => !(gap < tolerance));
    expect(far).toEqual([]);
  });
}

answers('off'); // rotary tables stay with the model once made
let baseline = liveTensorCount();
afterEach(() => expect(liveTensorCount()).toBe(baseline));

test('from one replay to the next every operator, shape and number is the same, and nothing is read or sent', () => {
  const replays: string[][] = [];
  const graphs = new RunAgain((body) => {
    expect(countCrossings(() => replays.push(callsOf(body)))).toEqual({ reads: 0, uploads: 0 });
  });
  expectSame(answers(graphs, { slots: 2 }), answers('off'));
  expect(replays.length).toBeGreaterThan(25);
  const kinds = new Map<string, number>();
  for (const calls of replays) {
    const all = calls.join('\n');
    kinds.set(all, (kinds.get(all) ?? 0) + 1);
  }
  // One sequence a recording, though lengths, positions, rows and inputs differ.
  expect(kinds.size).toBe(graphs.recorded);
  expect(Math.max(...kinds.values())).toBeGreaterThan(8);
  for (const call of kinds.keys()) {
    expect(call).not.toMatch(/callOp \[null/);
    expect(call).not.toMatch(/^(?!callOp|inferenceMode|setGradEnabled)/m);
    expect(call).not.toMatch(
      /item|nonzero|is_nonzero|_local_scalar|aten::to\.[^\n]*cpu|_to_copy|pin_memory|masked_select|unique/,
    );
    expect(call).toMatch(/ivtlr::attend_row|scaled_dot_product_attention/);
  }
});

test('recordings serve all lengths within a power of two of columns, and are made anew when the cache moves', () => {
  const graphs = new RunAgain();
  const longer = { ...LONG, maxNewTokens: 260 };
  const before = { ...EARLY, maxNewTokens: 40 };
  const plans = [before, longer];
  expectSame(answers(graphs, { slots: 2 }, plans), answers('off', {}, plans));
  expect(graphs.recorded).toBeLessThan(14);
  expect(graphs.replayed).toBeGreaterThan(250);
});

test('what cannot be recorded runs the ordinary way, which is said once', () => {
  const lines: string[] = [];
  const { write } = process.stderr;
  process.stderr.write = (line) => lines.push(String(line)) > 0;
  let refused = 0;
  try {
    const graphs = new RunAgain();
    const refusing = {
      ordinaryFirst: 1,
      warmUp: (body: () => void) => graphs.warmUp(body),
      newGraph: () => ({
        ...graphs.newGraph(),
        capture: () => {
          refused++;
          throw new TorchError('Graph', 'operation not permitted when stream is capturing');
        },
      }),
    };
    expectSame(answers(refusing), answers('off'));
  } finally {
    process.stderr.write = write;
  }
  expect(refused).toBe(1);
  expect(lines).toEqual([
    'passes cannot be recorded as graphs and run one operator after the other: Graph: operation not permitted when stream is capturing\n',
  ]);
});

test('a pass is recorded when it has run the ordinary way so often, however often the cache moves', () => {
  const graphs = new RunAgain((body) => body(), 2);
  const always = new RunAgain();
  const wanted = answers('off');
  expectSame(answers(graphs), wanted);
  expectSame(answers(always), wanted);
  // Latent steps that take place once or twice are not worth it.
  expect(graphs.recorded).toBeGreaterThan(0);
  expect(graphs.recorded).toBeLessThan(always.recorded);
  expect(graphs.replayed).toBeLessThan(always.replayed);
});

test.runIf(cudaAvailable())('graphs of a GPU give what ordinary passes on it give', () => {
  const gpu = tinyModel({ seed: 3 });
  const replay = vi.spyOn(CudaGraph.prototype, 'replay');
  gpu.to({ device: 'cuda:0' });
  try {
    const wanted = answers('off', {}, [EARLY, LONG, EARLY], gpu);
    const held = liveTensorCount(); // pinned memory of uploads stays
    expectSame(answers('auto', {}, [EARLY, LONG, EARLY], gpu), wanted, 1e-3);
    expect(replay.mock.calls.length).toBeGreaterThan(15);
    expect(liveTensorCount()).toBe(held);
  } finally {
    replay.mockRestore();
    gpu.dispose();
    baseline = liveTensorCount();
  }
});

test('admission counts the columns that are taken besides those of rows', () => {
  const bytes = (columns: number, graphs: GraphsOption) => {
    const batch = new RowBatch(model, { graphs });
    batch.reserve(3, columns - batch.spareColumns);
    const { cacheBytes } = batch;
    batch.dispose();
    return cacheBytes;
  };
  expect(bytes(128, new RunAgain())).toBe(bytes(128, 'off'));
  // Memory is taken in blocks of 64.
  expect(bytes(129, new RunAgain())).toBe(bytes(192, 'off'));
  expect(new RowBatch(model, { graphs: 'off' }).spareColumns).toBe(0);
});
