// This project's side of bench/chameleon.mjs: THREADS machine | answer REPEAT LAYERS | picture REPEAT FOLDER DTYPE. Prints one JSON object.
import path from 'node:path';
import {
  Conv2d,
  cudaSynchronize,
  inferenceMode,
  manualSeed,
  openSafetensors,
  randn,
  scope,
  setAllowTf32,
  setNumThreads,
  torchVersion,
} from '@ivtlr/torch';
import { generate } from '../packages/ivtlr/dist/latent/generate.js';
import { LATENT_DEFAULTS } from '../packages/ivtlr/dist/latent/options.js';
import { loadModel } from '../packages/ivtlr/dist/models/registry.js';
import { bandwidths, best, productRates } from './machine.mjs';
import { randomModel } from './random-model.mjs';

const [threads, part, repeat, ...rest] = process.argv.slice(2);
const device = process.env.BENCH_DEVICE ?? 'cpu';
setNumThreads(Number(threads));
if (device !== 'cpu') setAllowTf32(false);

// Chameleon-7B, after official training's three tokens more.
const DIMS = { hidden: 4096, inter: 11008, heads: 32, vocab: 65539 };
const VQ = { base: 128, multipliers: [1, 1, 2, 2, 4], blocks: 2, latent: 256, embed: 256, codes: 8192, side: 512 };
const IDS = { image: 8711, latent: 65538 };
const [LATENTS, PATCHES, NEW_TOKENS, TEXT, IMAGE] = [3, 64, 16, 60, 1024];
const SIDE = 32;

function config(layers) {
  const name = (code) => `IMGIMG${[...String(code)].map((d) => String.fromCharCode(65 + Number(d))).join('')}Z`;
  const codes = Array.from({ length: VQ.codes }, (_, code) => [name(code), 4 + code]);
  return {
    model_type: 'chameleon',
    num_hidden_layers: layers,
    vocab_size: DIMS.vocab,
    vocabulary_map: { ...Object.fromEntries(codes), '<image>': IDS.image },
  };
}

const asPicture = (pixels) => ({
  pixels,
  grid: [1, SIDE, SIDE],
  tokens: IMAGE,
  tokenGrid: [SIDE, SIDE],
  source: { width: VQ.side, height: VQ.side },
});

/** Floating-point operations of the image tokenizer's convolutions, attention and distances. */
function pictureFlops() {
  const { base, multipliers, blocks, latent, embed, codes } = VQ;
  const conv = (inputs, outputs, side, kernel = 3) => 2 * inputs * outputs * kernel ** 2 * side ** 2;
  let side = VQ.side;
  let channels = base;
  let sum = conv(3, base, side);
  for (const [level, multiplier] of multipliers.entries()) {
    const outputs = base * multiplier;
    for (let i = 0; i < blocks; i++) {
      sum += conv(channels, outputs, side) + conv(outputs, outputs, side);
      if (channels !== outputs) sum += conv(channels, outputs, side, 1);
      channels = outputs;
    }
    if (level < multipliers.length - 1) {
      side /= 2;
      sum += conv(channels, channels, side);
    }
  }
  sum += 4 * conv(channels, channels, side) + 4 * conv(channels, channels, side, 1) + 4 * IMAGE ** 2 * channels;
  return sum + conv(channels, latent, side) + conv(latent, embed, side, 1) + 2 * IMAGE * embed * codes;
}

/** What each phase has to do at least: operations of its products, bytes of weights read by passes of one row. */
function demand(layers) {
  const { hidden: D, inter, vocab } = DIMS;
  const perLayer = 4 * D * D + 3 * D * inter;
  /** Rows that see `past` positions before them. */
  const decoder = (rows, past) => layers * (2 * rows * perLayer + 4 * rows * (past + rows / 2) * D);
  const prompt = IMAGE + TEXT;
  const step = PATCHES + 1;
  const steps = Array.from({ length: LATENTS }, (_, t) => decoder(step, prompt + t * step));
  return {
    pictureFlops: pictureFlops(),
    promptFlops: decoder(prompt, 0),
    latentFlops: steps.reduce((a, b) => a + b, 0) + 2 * D * vocab,
    decodeBytes: (NEW_TOKENS - 1) * (layers * perLayer + D * vocab) * 2,
    weightBytes: (layers * perLayer + 2 * D * vocab) * 2,
  };
}

const peak = () => ({ peakMegabytes: process.resourceUsage().maxRSS / 1024 });

function machine() {
  const { hidden, inter } = DIMS;
  const products = productRates(
    'bfloat16',
    [
      [IMAGE + TEXT, hidden, inter],
      [IMAGE + TEXT, inter, hidden],
      [PATCHES + 1, hidden, inter],
      [512, hidden, inter],
    ],
    device,
  );
  const convolution = inferenceMode(() =>
    scope(() => {
      const conv = new Conv2d(256, 256, 3, { padding: 1, dtype: 'bfloat16', device });
      const x = randn([1, 256, 128, 128]).to({ dtype: 'bfloat16', device });
      return (2 * 256 * 256 * 9 * 128 ** 2) / best(8, () => conv.forward(x), device) / 1e9;
    }),
  );
  return { products, convolution, bandwidth: bandwidths('bfloat16', device) };
}

function answer() {
  const layers = Number(rest[0]);
  const model = randomModel({ config: config(layers), dtype: 'bfloat16', device }).eval();
  manualSeed(1);
  const image = asPicture(randn([1, 3, VQ.side, VQ.side]));
  const words = Array.from({ length: TEXT }, (_, i) => 10000 + 37 * i);
  const prompt = [...words.slice(0, 6), ...new Array(IMAGE).fill(IDS.image), ...words.slice(6)];
  const row = [...prompt, ...new Array(LATENTS).fill(IDS.latent)];
  const batch = {
    inputIds: [row],
    labels: [row.map(() => -100)],
    attentionMask: [row.map(() => 1)],
    latentStart: prompt.length,
    latentSteps: LATENTS,
    images: [[image]],
    pickTargets: [null],
  };
  const options = { ...LATENT_DEFAULTS, patches: PATCHES, maxNewTokens: NEW_TOKENS, eosIds: [] };
  // The image's share of the prefill: the model says when it is done with it.
  let encoded = 0;
  const encode = model.encodeImages.bind(model);
  model.encodeImages = (images) => {
    const result = encode(images);
    if (device !== 'cpu') cudaSynchronize();
    encoded = performance.now();
    return result;
  };
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
      if (value.type !== 'end') marks.push(performance.now());
    }
    const [firstHidden, firstToken, end] = [marks[0], marks[LATENTS], marks.at(-1)];
    const phases = [encoded - started, firstHidden - encoded, firstToken - firstHidden, end - firstToken];
    const [picture, promptSeconds, latents, decode] = phases.map((ms) => ms / 1000);
    runs.push({ picture, prompt: promptSeconds, latents, decode });
  }
  const picked = new Set(last.picked[0].flat());
  return { runs, tokens: last.tokens[0].length, distinct: picked.size, demand: demand(layers), ...peak() };
}

function picture() {
  const [folder, dtype] = rest;
  const model = loadModel(folder, { dtype, device }).eval();
  const file = openSafetensors(path.join(folder, 'inputs.safetensors'));
  const image = asPicture(file.read('pixel_values'));
  let codes = [];
  const runs = Array.from({ length: Number(repeat) }, () => {
    const started = performance.now();
    codes = inferenceMode(() => scope(() => model.imageTokens(image).toNumbers()));
    return (performance.now() - started) / 1000;
  });
  return { runs, codes, ...peak(), versions: { node: process.version, libtorch: torchVersion() } };
}

console.log(JSON.stringify({ machine, answer, picture }[part]()));
