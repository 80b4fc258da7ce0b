/** How often a pass waits for a GPU, counted on the CPU. */
import { type Crossings, countCrossings, scope, setNumThreads } from '@ivtlr/torch';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type TinyRow, tinyBatch, tinyModel } from '../../../../test/tiny-model.ts';
import type { Qwen2VL } from '../models/qwen2-vl/model.ts';
import { type GenerateOptions, generate } from './generate.ts';
import { LATENT_DEFAULTS } from './options.ts';

setNumThreads(1);

const ROWS: TinyRow[] = [
  { before: [1, 2, 3], after: [4, 5], grid: [3, 4], latentSteps: 2, seed: 1 },
  { before: [6], after: [7, 8, 9, 10, 11, 12], grid: [2, 3], latentSteps: 2, seed: 2 },
  { before: [13, 14], after: [15], grid: [4, 2], latentSteps: 2, seed: 3 },
  { before: [13, 14], after: [15, 16], grid: [3, 4], latentSteps: 2, seed: 4 },
];
const OPTIONS: GenerateOptions = { ...LATENT_DEFAULTS, patches: 3, maxNewTokens: 4, eosIds: [] };

let model: Qwen2VL;
beforeAll(() => {
  model = tinyModel({ seed: 3 });
});
afterAll(() => model.dispose());

/** Of each step of a whole answer, by what it gives. */
function crossings(rows: readonly TinyRow[], options: Partial<GenerateOptions> = {}): [string, Crossings][] {
  return scope(() => {
    const running = generate(model, tinyBatch(rows), { ...OPTIONS, ...options });
    const found: [string, Crossings][] = [];
    for (let done = false; !done; ) {
      let name = '';
      const own = countCrossings(() => {
        const next = running.next();
        done = next.done === true;
        if (!next.done) name = next.value.type;
      });
      if (!done) found.push([name, own]);
    }
    return found;
  });
}

test('print', () => {
  for (const rows of [ROWS.slice(0, 1), ROWS])
    for (const options of [
      {},
      { sampling: { temperature: 1 } },
      { sampling: { temperature: 1, topP: 0.9, topK: 5 } },
      { trace: true },
    ])
      console.log(
        rows.length,
        JSON.stringify(options),
        crossings(rows, options)
          .map(([n, { reads, uploads }]) => `${n} ${reads}r ${uploads}u`)
          .join(', '),
      );
});
