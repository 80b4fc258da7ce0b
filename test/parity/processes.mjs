/**
 * One rank of a group that trains a case of goldens/official-ddp.json, once for each ZeRO stage. The payload: {golden, stages, folder}; the folder
 * holds start.safetensors (every parameter, LoRA factors included, and `pixels.N` of each image). The first rank writes zero-STAGE.json
 * (losses, norms of the gradients) and zero-STAGE.safetensors (what was trained). A rank that is alone takes the micro-batches of all.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  initProcessGroup,
  noGrad,
  openSafetensors,
  saveSafetensors,
  scope,
  setNumThreads,
  skipInit,
} from '@ivtlr/torch';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/dist/latent/options.js';
import { injectLora } from '../../packages/ivtlr/dist/lora/inject.js';
import { DECODER_PROJECTIONS } from '../../packages/ivtlr/dist/lora/options.js';
import { parseChameleonConfig } from '../../packages/ivtlr/dist/models/chameleon/config.js';
import { Chameleon } from '../../packages/ivtlr/dist/models/chameleon/model.js';
import { parseQwen2VLConfig } from '../../packages/ivtlr/dist/models/qwen2-vl/config.js';
import { Qwen2VL } from '../../packages/ivtlr/dist/models/qwen2-vl/model.js';
import { ALONE, GroupRanks } from '../../packages/ivtlr/dist/parallel/ranks.js';
import { ShardedParameters } from '../../packages/ivtlr/dist/parallel/sharded-parameters.js';
import { ShardedUpdate } from '../../packages/ivtlr/dist/parallel/sharded-update.js';
import { WholeUpdate } from '../../packages/ivtlr/dist/parallel/update.js';
import { trainingLoss } from '../../packages/ivtlr/dist/train/loss.js';
import { trainStep } from '../../packages/ivtlr/dist/train/step.js';

const { golden, stages, folder, optimiser } = JSON.parse(process.argv[2]);
setNumThreads(1);
const group = process.env.WORLD_SIZE === '1' ? null : initProcessGroup({ timeout: 60 });
const ranks = group ? new GroupRanks(group) : ALONE;
const start = openSafetensors(join(folder, 'start.safetensors'));

function openModel() {
  const make = {
    qwen2_vl: () => new Qwen2VL(parseQwen2VLConfig(golden.config, golden.name)),
    chameleon: () => new Chameleon(parseChameleonConfig(golden.config, golden.name)),
  }[golden.config.model_type];
  const model = skipInit(make).eval();
  if (golden.lora) injectLora(model.module, { ...golden.lora, dropout: 0, targets: DECODER_PROJECTIONS });
  noGrad(() =>
    scope(() => {
      for (const [name, parameter] of model.module.namedParameters()) {
        parameter.copy_(start.read(name));
        parameter.requiresGrad = name in golden.trained;
      }
    }),
  );
  return model;
}

function imageOf(number) {
  const pixels = start.read(`pixels.${number}`);
  if (golden.config.model_type === 'chameleon') {
    const [, , height, width] = pixels.shape;
    const { channel_multiplier } = golden.config.vq_config;
    const grid = [height, width].map((n) => n / 2 ** (channel_multiplier.length - 1));
    return { pixels, grid: [1, ...grid], tokens: grid[0] * grid[1], tokenGrid: grid, source: { width, height } };
  }
  const [t, h, w] = golden.image_grid_thw[number];
  return {
    ...{ pixels, grid: [t, h, w], tokens: (h * w) / 4, tokenGrid: [h / 2, w / 2] },
    source: { width: w * 14, height: h * 14 },
  };
}

function microBatch({ latents, images: [first, count], input_ids, labels, attention_mask }, total) {
  const images = Array.from({ length: count }, (_, i) => imageOf(first + i));
  const batch = {
    inputIds: input_ids,
    labels,
    attentionMask: attention_mask,
    latentStart: input_ids[0].indexOf(golden.ids.latent),
    latentSteps: latents,
    images: images.map((image) => [image]),
    pickTargets: input_ids.map(() => null),
  };
  return { batch, ids: input_ids.map((_, row) => `${first + row}`), weight: 1 / total };
}

const options = {
  ...LATENT_DEFAULTS,
  patches: golden.patches,
  onExhausted: 'reuse',
  latentGradient: 'detached',
  pickSupervision: 0,
};
const all = golden.micros.flat();
const micros = (group ? golden.micros[ranks.rank] : all).map((micro) => microBatch(micro, all.length));
for (const zero of stages) {
  const model = openModel();
  const parameters = new Map([...model.module.namedParameters()].filter(([, { requiresGrad }]) => requiresGrad));
  const trainee = {
    parameters,
    loss: ({ batch }, observer = null) => trainingLoss(model, batch, { ...options, observer }),
  };
  const settings = { lr: golden.lr, weightDecay: optimiser.weight_decay };
  const update = group
    ? new ShardedUpdate(new ShardedParameters(group, model.module, model.parts(), zero, { byDepth: true }), settings)
    : new WholeUpdate(parameters, settings);
  const losses = [];
  const norms = [];
  for (let step = 0; step < golden.steps; step++) {
    const { loss, gradNorm } = trainStep(trainee, micros, { ranks, update, lr: golden.lr, clip: optimiser.clipping });
    losses.push(loss);
    norms.push(gradNorm);
  }
  await update.whole(() => {
    if (ranks.rank > 0) return;
    writeFileSync(join(folder, `zero-${zero}.json`), JSON.stringify({ losses, norms }));
    saveSafetensors(join(folder, `zero-${zero}.safetensors`), parameters);
  });
  update.dispose();
  model.module.dispose();
}
start.close();
group?.destroy();
