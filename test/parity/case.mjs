// Reads a case folder (a Hugging Face model, inputs.safetensors + case.json and/or train-inputs.safetensors + train.json) and prints what
// this project computes for it, as one JSON object with the same field names: {picked, new_tokens, last_logits} and {losses}.
import fs from 'node:fs';
import path from 'node:path';
import { AdamW, openSafetensors, scope } from '@ivtlr/torch';
import { generateAll } from '../../packages/ivtlr/dist/latent/generate.js';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/dist/latent/options.js';
import { loadModel } from '../../packages/ivtlr/dist/models/registry.js';
import { trainingLoss } from '../../packages/ivtlr/dist/train/loss.js';

const folder = process.argv[2];
if (!folder || !fs.existsSync(path.join(folder, 'config.json'))) {
  console.error('usage: npm run -s case -- DIR, where DIR holds a model and case.json or train.json');
  process.exit(2);
}
const read = (name) =>
  fs.existsSync(path.join(folder, name)) ? JSON.parse(fs.readFileSync(path.join(folder, name), 'utf8')) : null;

const config = read('config.json');

function readImages(name) {
  const file = openSafetensors(path.join(folder, name));
  const pixels = file.read('pixel_values');
  return config.model_type === 'chameleon'
    ? chameleonImages(pixels)
    : qwenImages(pixels, file.read('image_grid_thw').tolist());
}

/** pixels (patches of all images, 1176) */
function qwenImages(pixels, grids) {
  let at = 0;
  return grids.map(([t, h, w]) => {
    const own = pixels.narrow(0, at, t * h * w);
    at += t * h * w;
    return {
      pixels: own,
      grid: [t, h, w],
      tokens: (t * h * w) / 4,
      tokenGrid: [h / 2, w / 2],
      source: { width: w * 14, height: h * 14 },
    };
  });
}

/** pixels (images, 3, side, side) */
function chameleonImages(pixels) {
  const [count, , height, width] = pixels.shape;
  const shrink = 2 ** (config.vq_config.channel_multiplier.length - 1);
  const [rows, columns] = [height / shrink, width / shrink];
  return Array.from({ length: count }, (_, i) => ({
    pixels: pixels.narrow(0, i, 1),
    grid: [1, rows, columns],
    tokens: rows * columns,
    tokenGrid: [rows, columns],
    source: { width, height },
  }));
}

function makeBatch(inputIds, attentionMask, labels, images, ids) {
  const first = inputIds[0].indexOf(ids.latent);
  return {
    inputIds,
    labels,
    attentionMask,
    latentStart:
      first >= 0
        ? first
        : Math.max(
            1,
            labels[0].findIndex((label) => label !== -100),
          ) || inputIds[0].length,
    latentSteps: inputIds[0].filter((id) => id === ids.latent).length,
    images: images.map((image) => [image]),
    pickTargets: images.map(() => null),
  };
}

const options = (json) => ({ ...LATENT_DEFAULTS, patches: json.patches, onExhausted: 'reuse' });

function generateCase(json) {
  const model = loadModel(folder).eval();
  const row = json.input_ids;
  const labels = [row.map(() => -100)];
  const batch = { ...makeBatch([row], [row.map(() => 1)], labels, readImages('inputs.safetensors'), json.ids) };
  if (batch.latentSteps === 0) batch.latentStart = row.length;
  const maxNewTokens = json.new_tokens?.length ?? 16;
  const result = generateAll(model, batch, {
    ...options(json),
    maxNewTokens,
    eosIds: [json.ids.eos],
    trace: true,
    firstLogits: true,
  });
  return {
    picked: result.traces[0].map(({ picked }) => picked.map((index) => index + inputIds[0].indexOf(ids.image))),
    new_tokens: result.tokens[0],
    last_logits: result.firstLogits[0].slice(0, json.last_logits?.length),
  };
}

function trainCase(json) {
  const model = loadModel(folder).eval();
  const parts = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
  const trained = new Map(
    [...model.module.namedParameters()].filter(([name]) => parts.some((part) => name.includes(part))),
  );
  model.module.setRequiresGrad(false);
  for (const parameter of trained.values()) parameter.requiresGrad = true;
  const optimizer = new AdamW(trained, { lr: json.lr ?? 4e-5, weightDecay: json.weight_decay ?? 0.01 });
  // A batch of one may be written as one row.
  const rows = (value) => (Array.isArray(value[0]) ? value : [value]);
  const inputIds = rows(json.input_ids);
  const mask = json.attention_mask ? rows(json.attention_mask) : inputIds.map((row) => row.map(() => 1));
  const batch = makeBatch(inputIds, mask, rows(json.labels), readImages('train-inputs.safetensors'), json.ids);
  const losses = Array.from({ length: json.losses?.length ?? 1 }, () =>
    scope(() => {
      const { loss } = trainingLoss(model, batch, { ...options(json), latentGradient: 'detached', pickSupervision: 0 });
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      return loss.item();
    }),
  );
  return { losses };
}

const [generation, training] = [read('case.json'), read('train.json')];
if (!generation && !training) {
  console.error(`${folder} holds neither case.json nor train.json`);
  process.exit(2);
}
console.log(JSON.stringify({ ...(generation && generateCase(generation)), ...(training && trainCase(training)) }));
