// Time and cache of a latent step with `latentMemory: all` and `last`, over one long reasoning. After a build:
//   node bench/latent-memory.mjs [--steps 64] [--threads 1] [--repeat 3] [--json] [--save]
// A model of 37M parameters and random weights in bfloat16 (size small of bench/inference.mjs): one image of 100 tokens among 60 text tokens, steps of
// 32 patches. With `all` a step sees the prompt and every step before it, so its time and the cache grow with the steps; with `last` it sees the
// prompt's text and itself. Milliseconds are means of the first, the middle and the last eight steps of the fastest run; columns are what the row
// holds in its cache at most. --save writes bench/results/latent-memory.json.
import { parseArgs } from 'node:util';
import { randn, setNumThreads } from '@ivtlr/torch';
import { generate } from '../packages/ivtlr/dist/latent/generate.js';
import { LATENT_DEFAULTS } from '../packages/ivtlr/dist/latent/options.js';
import { columnsOf } from '../packages/ivtlr/dist/latent/row.js';
import { makeCase } from './inference-shapes.mjs';
import { randomModel } from './random-model.mjs';
import { circumstances, fail, round, save } from './run.mjs';

const { values } = parseArgs({
  options: {
    steps: { type: 'string', default: '64' },
    threads: { type: 'string', default: '1' },
    repeat: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const [steps, threads, repeat] = [values.steps, values.threads, values.repeat].map(Number);
if (!Number.isInteger(steps) || steps < 24 || steps > 96)
  fail(`--steps is a whole number from 24 to 96, not ${values.steps}`);
/** Steps that a mean is taken of. */
const SPAN = 8;

const before = circumstances(threads);
setNumThreads(threads);
const { prompt, ids, patches, grid, ...made } = makeCase('qwen2-vl', 'small', threads);
const model = randomModel(made).eval();
const tokens = prompt.filter((id) => id === ids.image).length;
const image = {
  pixels: randn([grid[0] * grid[1], 1176]),
  grid: [1, ...grid],
  tokens,
  tokenGrid: grid.map((n) => n / 2),
  source: { width: 280, height: 280 },
};
const row = [...prompt, ...new Array(steps).fill(ids.latent)];
const batch = {
  inputIds: [row],
  labels: [row.map(() => -100)],
  attentionMask: [row.map(() => 1)],
  latentStart: prompt.length,
  latentSteps: steps,
  images: [[image]],
  pickTargets: [null],
};

/** Milliseconds of every latent step but the first, which the prompt's pass makes. */
function run(options) {
  const seconds = [];
  let last = null;
  for (const event of generate(model, batch, options)) {
    const now = performance.now();
    if (event.type === 'latent-step') {
      if (last !== null) seconds.push(now - last);
      last = now;
    }
  }
  return seconds;
}

const sum = (list) => list.reduce((total, value) => total + value, 0);
const mean = (list) => round(sum(list) / list.length);
const measured = {};
for (const latentMemory of ['all', 'last']) {
  const options = { ...LATENT_DEFAULTS, latentMemory, patches, onExhausted: 'reuse', maxNewTokens: 1, eosIds: [] };
  const runs = Array.from({ length: repeat }, () => run(options));
  const fastest = runs.reduce((a, b) => (sum(b) < sum(a) ? b : a));
  const middle = Math.floor((fastest.length - SPAN) / 2);
  const { kv, hidden, heads, layers } = made.dims;
  const columns = columnsOf({ promptIds: prompt, latentSteps: steps, afterLatentIds: [], options });
  measured[latentMemory] = {
    columns,
    cacheMegabytes: round((columns * layers * 2 * kv * (hidden / heads) * 2) / 1e6),
    milliseconds: {
      first: mean(fastest.slice(0, SPAN)),
      middle: mean(fastest.slice(middle, middle + SPAN)),
      last: mean(fastest.slice(-SPAN)),
    },
    seconds: round(sum(fastest) / 1000),
  };
}
const result = { steps, patches, threads, circumstances: before, measured };
if (values.save) save('latent-memory', result);
if (values.json) console.log(JSON.stringify(result, null, 2));
else {
  console.log(`${steps} latent steps of ${patches} patches, ${threads} thread(s)`);
  console.table(
    Object.fromEntries(
      Object.entries(measured).map(([name, { columns, cacheMegabytes, milliseconds, seconds }]) => [
        name,
        { columns, 'cache MB': cacheMegabytes, ...milliseconds, 'all steps s': seconds },
      ]),
    ),
  );
}
