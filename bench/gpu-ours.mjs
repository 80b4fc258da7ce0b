// This project's side of bench/gpu.mjs: CASE.json PART. Parts: machine, answers, load FOLDER, kernels. Prints one JSON object.
import fs from 'node:fs';
import path from 'node:path';
import {
  cudaDevice,
  cudaMemory,
  cudaSynchronize,
  inferenceMode,
  keep,
  manualSeed,
  randn,
  scope,
  setNumThreads,
  torchVersion,
} from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { LATENT_DEFAULTS } from '../packages/ivtlr/dist/latent/options.js';
import { RowBatch } from '../packages/ivtlr/dist/latent/row-batch.js';
import { attend } from '../packages/ivtlr/dist/models/common/attention.js';
import { attentionKernel } from '../packages/ivtlr/dist/models/common/gpu-attention.js';
import { loadModel, saveModel } from '../packages/ivtlr/dist/models/registry.js';
import { bandwidths, best, productRates } from './machine.mjs';
import { randomModel } from './random-model.mjs';

const [file, part, folder] = process.argv.slice(2);
const testCase = JSON.parse(fs.readFileSync(file, 'utf8'));
const { device, dtype, dims, prompt, grid, batch, decodeTokens } = testCase;
setNumThreads(testCase.threads);
manualSeed(0);
const synchronize = () => device !== 'cpu' && cudaSynchronize();
const gpu = device === 'cpu' ? null : cudaDevice();
const PARTS = { machine, answers, load, kernels };
const versions = { node: process.version, libtorch: torchVersion() };
console.log(JSON.stringify({ ...(await PARTS[part]()), ...(gpu && { gpu: gpu.name }), versions }));

function machine() {
  const products = productRates(
    dtype,
    [
      [prompt.length, dims.hidden, dims.inter],
      [4096, dims.hidden, dims.inter],
      [4096, dims.inter, dims.hidden],
    ],
    device,
  );
  return { products, bandwidth: bandwidths(dtype, device) };
}

function picture(seed) {
  manualSeed(seed);
  return {
    pixels: keep(randn([grid[0] * grid[1], 1176])),
    grid: [1, ...grid],
    tokens: (grid[0] * grid[1]) / 4,
    tokenGrid: grid.map((n) => n / 2),
    source: { width: grid[1] * 14, height: grid[0] * 14 },
  };
}

function request(seed, { latents, newTokens }) {
  const options = {
    ...LATENT_DEFAULTS,
    ...{ patches: testCase.patches, onExhausted: 'reuse', maxNewTokens: newTokens, eosIds: [] },
  };
  return { promptIds: prompt, images: [picture(seed)], latentSteps: latents, afterLatentIds: [], options };
}

/** One row batch for all figures of a model, as a server has: what a GPU has recorded once is used again. */
function answers() {
  const model = randomModel(testCase).eval();
  const rows = new RowBatch(model);
  /** Seconds from the rows' arrival to the end of the last, and of the passes behind the first token of the last. */
  const run = (count, asked) => {
    const requests = Array.from({ length: count }, (_, i) => request(i, asked));
    synchronize();
    const started = performance.now();
    const made = rows.add(requests);
    let written = null;
    while (rows.size > 0) {
      rows.step();
      if (written === null && made.every(({ tokens }) => tokens.length > 0)) written = performance.now();
    }
    synchronize();
    const end = performance.now();
    for (const { images } of requests) for (const { pixels } of images) pixels.dispose();
    return {
      seconds: (end - started) / 1000,
      decode: (end - written) / 1000,
      tokens: made.map(({ tokens }) => tokens),
    };
  };
  const fastest = (times, count, asked) => {
    const runs = Array.from({ length: times }, () => run(count, asked));
    return runs.reduce((a, b) => (b.seconds < a.seconds ? b : a));
  };
  const sample = { latents: testCase.latents, newTokens: testCase.newTokens };
  const long = { latents: 0, newTokens: decodeTokens };
  const single = fastest(4, 1, sample);
  const decode = {};
  for (const count of [1, batch]) {
    const { decode: seconds } = fastest(3, count, long);
    decode[count] = {
      secondsPerPass: seconds / (decodeTokens - 1),
      tokensPerSecond: (count * (decodeTokens - 1)) / seconds,
    };
  }
  const many = fastest(2, batch, sample);
  const image = picture(1);
  const vision = best(4, () => inferenceMode(() => model.encodeImages([image])), device);
  rows.dispose();
  return {
    sample: { seconds: single.seconds },
    decode,
    evaluation: { samplesPerSecond: batch / many.seconds },
    vision: { seconds: vision },
    parameters: [...model.module.namedParameters()].reduce((sum, [, { numel }]) => sum + numel, 0),
    ...(gpu && { peakGigabytes: cudaMemory().peakAllocated / 1e9 }),
  };
}

/** Writes the model once, then loads it; the file is in the system's cache then, so the rate is that of reading memory unless the machine has less. */
function load() {
  const made = randomModel(testCase);
  saveModel(made, testCase.config, folder);
  made.module.dispose();
  const bytes = fs
    .readdirSync(folder)
    .filter((name) => name.endsWith('.safetensors'))
    .reduce((sum, name) => sum + fs.statSync(path.join(folder, name)).size, 0);
  const started = performance.now();
  const model = loadModel(folder, { device });
  synchronize();
  const seconds = (performance.now() - started) / 1000;
  model.module.dispose();
  return { seconds, gigabytesPerSecond: bytes / seconds / 1e9 };
}

/** Microseconds of attention for the prompt, a latent step and a token of `batch` rows over a cache, in the forms that there are; and torch's kernel. */
function kernels() {
  const heads = dims.heads;
  const size = dims.size ?? dims.hidden / heads;
  const past = prompt.length;
  const forms = {};
  inferenceMode(() => {
    for (const [name, rows, b] of [
      ['prompt', past, 1],
      ['latent rows', testCase.patches + 1, 1],
      ['token', 1, 1],
      [`token of ${batch} rows`, 1, batch],
    ])
      scope(() => {
        const on = (shape) => randn(shape).to({ dtype, device });
        const total = name === 'prompt' ? past : past + rows;
        const q = on([b, heads, rows, size]);
        const [k, v] = [on([b, dims.kv, total, size]), on([b, dims.kv, total, size])];
        const mask =
          name === 'prompt'
            ? null
            : ops.tril(ops.ones([rows, total], 'bool', null, device), total - rows).view([1, 1, rows, total]);
        const seen = { mask, isCausal: mask === null };
        const repeated = [k, v].map((x) => x.repeatInterleave(heads / dims.kv, 1));
        const micro = (body) =>
          Math.round(
            1e7 *
              best(
                5,
                () => {
                  for (let i = 0; i < 10; i++) scope(body);
                },
                device,
              ),
          ) / 100;
        forms[name] = {
          ours: micro(() => attend(q, k, v, seen)),
          'repeated heads': micro(() => attend(q, ...[k, v].map((x) => x.repeatInterleave(heads / dims.kv, 1)), seen)),
          "torch's own choice": micro(() =>
            ops.scaled_dot_product_attention(q, k, v, mask, 0, seen.isCausal, null, heads !== dims.kv),
          ),
          'kernel for grouped heads': attentionKernel(q, k, v, seen),
          'kernel for repeated heads': attentionKernel(q, repeated[0], repeated[1], seen),
        };
      });
  });
  return { forms };
}
