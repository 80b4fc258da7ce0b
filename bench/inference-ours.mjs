// This project's side of bench/inference.mjs: reads the case, runs it, prints one JSON object. `--floor` measures the machine instead.
import fs from 'node:fs';
import path from 'node:path';
import { openSafetensors, randn, setNumThreads, torchVersion } from '@ivtlr/torch';
import { generate } from '../packages/ivtlr/dist/latent/generate.js';
import { LATENT_DEFAULTS } from '../packages/ivtlr/dist/latent/options.js';
import { loadModel } from '../packages/ivtlr/dist/models/registry.js';
import { bandwidths, productRates } from './machine.mjs';
import { randomModel } from './random-model.mjs';

const [file, repeat, mode] = process.argv.slice(2);
const testCase = JSON.parse(fs.readFileSync(file, 'utf8'));
setNumThreads(testCase.threads);
console.log(JSON.stringify(mode === '--floor' ? measureMachine() : measureModel()));

/** The case's model: loaded from its folder, or of its shape with small random weights. */
function buildModel() {
  return (testCase.folder ? loadModel(testCase.folder, { device: testCase.device }) : randomModel(testCase)).eval();
}

function readPixels() {
  if (testCase.folder) return openSafetensors(path.join(testCase.folder, 'inputs.safetensors')).read('pixel_values');
  const { tiles, dims } = testCase;
  return randn(
    tiles ? [tiles, 3, dims.side, dims.side] : [testCase.grid[0] * testCase.grid[1], dims.patchValues ?? 1176],
  );
}

function measureModel() {
  const { prompt, ids, latents, patches, newTokens, grid } = testCase;
  const model = buildModel();
  const columns = prompt.flatMap((id, column) => (id === ids.image ? [column] : []));
  const tokens = columns.length;
  const row = [...prompt, ...new Array(latents).fill(ids.latent)];
  const image = {
    pixels: readPixels(),
    grid: [1, ...grid],
    tokens,
    tokenGrid: grid.map((n) => n / 2),
    source: { width: 280, height: 280 },
  };
  const batch = {
    inputIds: [row],
    labels: [row.map(() => -100)],
    attentionMask: [row.map(() => 1)],
    latentStart: prompt.length,
    latentSteps: latents,
    images: [[image]],
    pickTargets: [null],
  };
  const options = { ...LATENT_DEFAULTS, patches, onExhausted: 'reuse', maxNewTokens: newTokens, eosIds: [] };
  const runs = [];
  let last = null;
  for (let i = 0; i < Number(repeat); i++) {
    const started = performance.now();
    const marks = [];
    const events = generate(model, batch, options);
    for (;;) {
      const { done, value } = events.next();
      if (done) {
        last = value;
        break;
      }
      if (value.type !== 'end') marks.push((performance.now() - started) / 1000);
    }
    const [firstHidden, firstToken, end] = [marks[0], marks[latents], marks.at(-1)];
    runs.push({ prefill: firstHidden, latents: firstToken - firstHidden, decode: end - firstToken });
  }
  return {
    runs,
    picks: last.picked[0].map((picked) => picked.map((index) => columns[index])),
    tokens: last.tokens[0],
    peakMegabytes: process.resourceUsage().maxRSS / 1024,
    versions: { node: process.version, libtorch: torchVersion() },
  };
}

/** The products that prefill and latent steps are made of, and memory. */
function measureMachine() {
  const { dims, dtype, grid, prompt, patches, device } = testCase;
  const products = productRates(
    dtype,
    [
      [dims.side ? (dims.side / dims.patch) ** 2 : grid[0] * grid[1], dims.vdim, dims.vinter ?? 4 * dims.vdim],
      [prompt.length, dims.hidden, dims.inter],
      [prompt.length, dims.inter, dims.hidden],
      [patches + 1, dims.hidden, dims.inter],
      [patches + 1, dims.inter, dims.hidden],
      [512, dims.hidden, dims.inter],
    ],
    device,
  );
  return { products, bandwidth: bandwidths(dtype, device) };
}
