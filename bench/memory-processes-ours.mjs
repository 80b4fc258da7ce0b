// One process of bench/memory-processes.mjs: trains with the ZeRO stage in argv[2] and prints what it held, in bytes, as one JSON object.
import fs from 'node:fs';
import {
  initProcessGroup,
  liveTensorBytes,
  manualSeed,
  randn,
  setFlushDenormal,
  setNumThreads,
  torchVersion,
  withoutGaps,
} from '@ivtlr/torch';
import { LATENT_DEFAULTS } from '../packages/ivtlr/dist/latent/options.js';
import { createHollowModel } from '../packages/ivtlr/dist/models/registry.js';
import { GroupRanks } from '../packages/ivtlr/dist/parallel/ranks.js';
import { ShardedParameters } from '../packages/ivtlr/dist/parallel/sharded-parameters.js';
import { ShardedUpdate } from '../packages/ivtlr/dist/parallel/sharded-update.js';
import { trainingLoss } from '../packages/ivtlr/dist/train/loss.js';
import { trainStep } from '../packages/ivtlr/dist/train/step.js';
import { proportional } from './proportional-memory.mjs';

const STEPS = 2;
const VOCABULARY = 16384;
/** Its parts are to each other about as those of Qwen2-VL-7B: embedding and head 6 % each, vision tower 8 %, a layer 3 %. */
const config = {
  model_type: 'qwen2_vl',
  vocab_size: VOCABULARY,
  hidden_size: 768,
  intermediate_size: 2048,
  num_hidden_layers: 26,
  num_attention_heads: 12,
  num_key_value_heads: 2,
  rope_theta: 1000000,
  rope_scaling: { type: 'mrope', mrope_section: [8, 12, 12] },
  tie_word_embeddings: false,
  image_token_id: VOCABULARY - 1,
  vision_config: { depth: 6, embed_dim: 384, num_heads: 6, mlp_ratio: 4, hidden_size: 768 },
};
const GRID = [8, 8];
const IMAGE_TOKENS = 16;
const LATENT_STEPS = 1;

/** The most that has been resident since the last call; the kernel can forget it (Linux). */
function peak() {
  const kilobytes = /VmHWM:\s*(\d+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1];
  fs.writeFileSync('/proc/self/clear_refs', '5');
  return Number(kilobytes) * 1024;
}

const zero = Number(process.argv[2]);
setNumThreads(1);
setFlushDenormal(true);
manualSeed(0);
const group = initProcessGroup({ timeout: 300 });
const ranks = new GroupRanks(group);
const image = {
  pixels: randn([GRID[0] * GRID[1], 1176]),
  grid: [1, ...GRID],
  tokens: IMAGE_TOKENS,
  tokenGrid: GRID.map((n) => n / 2),
  source: { width: GRID[1] * 14, height: GRID[0] * 14 },
};
const bare = process.memoryUsage.rss();
const bareProportional = proportional('self');
const base = liveTensorBytes();

// As a run of several processes does it: each draws all weights one by one and keeps its part.
const { model, parameters, weights, update } = await withoutGaps(() => {
  const { model, fill } = createHollowModel(config, 1, { dtype: 'float32' });
  model.module.setRequiresGrad(true);
  model.module.train();
  const sharded = new ShardedParameters(group, model.module, model.parts(), zero, { byDepth: true, fill });
  const weights = liveTensorBytes() - base;
  const update = new ShardedUpdate(sharded, {});
  return { model, parameters: new Map(model.module.namedParameters()), weights, update };
});
const optimiser = liveTensorBytes() - base - weights;
const peakOfMaking = peak();

/** Before the optimiser's step, and at most after a pass, with what is on its way to other processes. */
let gradients = 0;
let gradientsAtMost = 0;
for (const name of ['finishRound', 'finishRounds']) {
  const own = update[name].bind(update);
  update[name] = () => {
    own();
    gradients = liveTensorBytes() - base - weights - optimiser;
    gradientsAtMost = Math.max(gradientsAtMost, gradients);
  };
}

/** Different rows in every process and micro-batch: an image, some words, latent slots, written text. */
function microBatch(index) {
  const seed = ranks.rank * 2 + index;
  const words = (count) => Array.from({ length: count }, (_, i) => (seed * 7919 + i * 104729) % (VOCABULARY - 16));
  const prompt = [...words(6), ...new Array(IMAGE_TOKENS).fill(VOCABULARY - 1), ...words(6)];
  const written = words(10);
  const row = [...prompt, ...new Array(LATENT_STEPS).fill(VOCABULARY - 2), ...written];
  const batch = {
    inputIds: [row],
    labels: [row.map((id, at) => (at < row.length - written.length ? -100 : id))],
    attentionMask: [row.map(() => 1)],
    latentStart: prompt.length,
    latentSteps: LATENT_STEPS,
    images: [[image]],
    pickTargets: [null],
  };
  return { batch, ids: [String(seed)], weight: 1 / (2 * ranks.size) };
}

const options = { ...LATENT_DEFAULTS, patches: 4, latentGradient: 'detached', pickSupervision: 0 };
const trainee = {
  parameters,
  loss: ({ batch }, observer = null) => trainingLoss(model, batch, { ...options, observer }),
};
const micros = [microBatch(0), microBatch(1)];
const losses = [];
const seconds = [];
for (let step = 0; step < STEPS; step++) {
  const started = performance.now();
  losses.push(trainStep(trainee, micros, { ranks, update, lr: 1e-4, clip: 1 }).loss);
  seconds.push((performance.now() - started) / 1000);
}
const peakOfSteps = peak();
console.log(
  JSON.stringify({
    parameters: [...parameters.values()].reduce((sum, { numel }) => sum + numel, 0),
    weights,
    gradients,
    gradientsAtMost,
    optimiser,
    bare,
    bareProportional,
    peakOfMaking,
    peakOfSteps,
    peak: Math.max(peakOfMaking, peakOfSteps),
    losses,
    seconds,
    versions: { node: process.version, libtorch: torchVersion() },
  }),
);
group.destroy();
