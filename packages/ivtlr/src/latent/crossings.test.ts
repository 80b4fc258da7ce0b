/** How often a pass waits for a GPU and sends something to it, counted on the CPU. */
import { countCrossings, scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TINY_IDS, type TinyRow, tinyBatch, tinyImage, tinyModel } from '../../../../test/tiny-model.ts';
import type { Qwen2VL } from '../models/qwen2-vl/model.ts';
import { type GenerateOptions, generate, generateAll } from './generate.ts';
import { LATENT_DEFAULTS } from './options.ts';
import { RowBatch } from './row-batch.ts';

setNumThreads(1);

const ROWS: TinyRow[] = [
  { before: [1, 2, 3], after: [4, 5], grid: [3, 4], latentSteps: 3, seed: 1 },
  { before: [6], after: [7, 8, 9, 10, 11, 12], grid: [4, 3], latentSteps: 3, seed: 2 },
  { before: [13, 14], after: [15], grid: [5, 2], latentSteps: 3, seed: 3 },
  { before: [13, 14], after: [15, 16], grid: [3, 4], latentSteps: 3, seed: 4 },
];
const OPTIONS: GenerateOptions = { ...LATENT_DEFAULTS, patches: 3, maxNewTokens: 4, eosIds: [] };

let model: Qwen2VL;
beforeAll(() => {
  model = tinyModel({ seed: 3 });
  // Rotary tables stay with the model once made.
  scope(() => generateAll(model, tinyBatch(ROWS), OPTIONS));
});
afterAll(() => model.dispose());

/** Of each step of a whole answer: what it gives, reads, uploads. */
function stepsOf(rows: readonly TinyRow[], options: Partial<GenerateOptions> = {}): string[] {
  return scope(() => {
    const running = generate(model, tinyBatch(rows), { ...OPTIONS, ...options });
    const found: string[] = [];
    for (let type = ''; type !== 'end'; ) {
      const { reads, uploads } = countCrossings(() => {
        const next = running.next();
        type = next.done ? 'end' : next.value.type;
      });
      found.push(`${type} ${reads} ${uploads}`);
    }
    return found;
  });
}

/** The same of three latent steps and four tokens that all cost what the last of their kind does. */
const steps = (latent: string, token: string, { first = latent, firstToken = token } = {}) => [
  ...[first, latent, latent].map((cost) => `latent-step ${cost}`),
  ...[firstToken, token, token, token].map((cost) => `tokens ${cost}`),
  'end 0 0',
];

test('one row: one read a latent step and token; positions and used image tokens are sent', () => {
  expect(stepsOf(ROWS.slice(0, 1))).toEqual(steps('1 2', '1 1', { first: '1 3' }));
});

test('rows of a batch are read together, whatever is asked of them', () => {
  // Lengths of the rows are sent as well; prompts have positions of their own.
  const few = { first: '1 8' };
  expect(stepsOf(ROWS)).toEqual(steps('1 3', '1 2', few));
  expect(stepsOf(ROWS, { logprobs: 3, firstLogits: true })).toEqual(steps('1 3', '1 2', few));
  // Temperatures and random numbers are sent too.
  expect(stepsOf(ROWS, { sampling: { temperature: 0.7 }, seed: 1 })).toEqual(steps('1 3', '1 4', few));
  // What a trace shows of a latent step is read on its own.
  expect(stepsOf(ROWS, { trace: true, traceText: true })).toEqual(steps('2 3', '1 2', { first: '2 8' }));
  expect(stepsOf(ROWS, { latentVision: 'random', seed: 1 })).toEqual(steps('1 4', '1 2', { first: '1 9' }));
});

test('rows that come and go: a pass reads its picks once and its tokens once', () => {
  scope(() => {
    const batch = new RowBatch(model);
    const ask = (latentSteps: number) => ({
      promptIds: [1, 2, ...new Array<number>(12).fill(TINY_IDS.image), 3],
      images: [tinyImage([3, 4], latentSteps)],
      latentSteps,
      afterLatentIds: [9],
      options: { ...OPTIONS, maxNewTokens: 8 },
    });
    const pass = () => {
      let kinds = '';
      const { reads } = countCrossings(() => {
        const events = batch.step();
        kinds = events.map(({ type }) => (type === 'token' ? 't' : type === 'latent-step' ? 'l' : 'e')).join('');
      });
      return `${kinds} ${reads}`;
    };
    try {
      batch.add([ask(2), ask(1)]);
      expect([pass(), pass()]).toEqual(['ll 1', 'lt 2']);
      batch.add([ask(2), ask(0)]);
      expect([pass(), pass(), pass()]).toEqual(['lttt 2', 'lttt 2', 'tttt 1']);
    } finally {
      batch.dispose();
    }
  });
});
