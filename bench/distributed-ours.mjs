// This project's side of bench/distributed.mjs: one rank. Arguments: the case's file, and {train, micros, zero} as JSON. Prints one JSON object.
import fs from 'node:fs';
import path from 'node:path';
import {
  bytesReadFromPeers,
  empty,
  initProcessGroup,
  manualSeed,
  openSafetensors,
  scope,
  setFlushDenormal,
  setNumThreads,
} from '@ivtlr/torch';
import { LATENT_DEFAULTS } from '../packages/ivtlr/dist/latent/options.js';
import { injectLora, loraParameters } from '../packages/ivtlr/dist/lora/inject.js';
import { loadModel } from '../packages/ivtlr/dist/models/registry.js';
import { ALONE, GroupRanks } from '../packages/ivtlr/dist/parallel/ranks.js';
import { ShardedParameters } from '../packages/ivtlr/dist/parallel/sharded-parameters.js';
import { ShardedUpdate } from '../packages/ivtlr/dist/parallel/sharded-update.js';
import { WholeUpdate } from '../packages/ivtlr/dist/parallel/update.js';
import { trainingLoss } from '../packages/ivtlr/dist/train/loss.js';
import { trainStep } from '../packages/ivtlr/dist/train/step.js';

const testCase = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const { train, micros, zero, calibrate } = JSON.parse(process.argv[3]);
const { ids, grid, inputIds, attentionMask, labels } = testCase;
setNumThreads(1);
setFlushDenormal(true);
manualSeed(0);
const world = Number(process.env.WORLD_SIZE);
const group = world === 1 ? null : initProcessGroup({ timeout: 120 });
if (calibrate) {
  // As large as what is sent for one of the model's parts; enough of them that the seconds are no accident.
  const whole = empty([4_000_000]).fill_(1);
  const part = empty([2_000_000]).fill_(1);
  const rate = (bytes, body) => {
    const seconds = Array.from({ length: 15 }, () => {
      group.barrier();
      const started = performance.now();
      scope(body);
      return (performance.now() - started) / 1000;
    });
    return bytes / seconds.sort((a, b) => a - b)[7];
  };
  // Between processes of one machine that can share memory, shards are read where they lie.
  const shared = group.shareMemory([part.nbytes])?.[0];
  const rates = {
    allReduce: rate(whole.nbytes, () => group.allReduceInPlace(whole)),
    reduceScatter: rate(part.nbytes, () => group.reduceScatterInto(part, whole)),
    gather: rate(part.nbytes, () => (shared ? shared.attach(whole) : group.allGatherInto(whole, part))),
  };
  console.log(JSON.stringify({ rates }));
  group.destroy();
  process.exit();
}

const model = loadModel(testCase.folder);
if (train === 'lora') injectLora(model.module, testCase.lora);
model.module.train();
const trained = train === 'lora' ? loraParameters(model.module) : new Map(model.module.namedParameters());
if (train === 'all') model.module.setRequiresGrad(true);

const batch = {
  ...{ inputIds, attentionMask, labels, latentSteps: testCase.latents },
  latentStart: inputIds[0].indexOf(ids.latent),
  images: [
    [
      {
        pixels: openSafetensors(path.join(testCase.folder, 'inputs.safetensors')).read('pixel_values'),
        grid: [1, ...grid],
        tokens: (grid[0] * grid[1]) / 4,
        tokenGrid: grid.map((n) => n / 2),
        source: { width: grid[1] * 14, height: grid[0] * 14 },
      },
    ],
  ],
  pickTargets: [null],
};
const options = {
  ...LATENT_DEFAULTS,
  ...{ patches: testCase.patches, onExhausted: 'reuse', latentGradient: 'detached', pickSupervision: 0 },
};
const trainee = {
  parameters: trained,
  loss: (micro, observer = null) => trainingLoss(model, micro.batch, { ...options, observer }),
};
const adamW = { weightDecay: 0.01 };
const update = group
  ? new ShardedUpdate(new ShardedParameters(group, model.module, model.parts(), zero, { byDepth: true }), adamW)
  : new WholeUpdate(trained, adamW);
const ranks = group ? new GroupRanks(group) : ALONE;
const own = Array.from({ length: micros }, (_, i) => ({ batch, ids: [`row ${i}`], weight: 1 / (world * micros) }));

/** What the loopback device has sent for all processes, and this one has read from the memory of others, who all do the same. */
const sent = () =>
  world * bytesReadFromPeers() +
  Number(
    fs
      .readFileSync('/proc/net/dev', 'utf8')
      .match(/lo:(.*)/)[1]
      .trim()
      .split(/\s+/)[8],
  );
/** Seconds of this step's parts: reductions that were not done with the passes, the norm, the update; the rest is passes and what is agreed on. */
let phases = {};
for (const [phase, name] of [
  ['reductions', 'finishRounds'],
  ['norm', 'squares'],
  ['update', 'step'],
]) {
  const own = update[name].bind(update);
  update[name] = (...args) => {
    const started = performance.now();
    try {
      return own(...args);
    } finally {
      phases[phase] = (performance.now() - started) / 1000;
    }
  };
}
const losses = [];
const seconds = [];
const phasesOfSteps = [];
let start = 0;
for (let step = 0; step <= testCase.steps; step++) {
  group?.barrier();
  if (step === 1) start = sent();
  phases = {};
  const started = performance.now();
  losses.push(trainStep(trainee, own, { ranks, update, lr: testCase.lr, clip: null }).loss);
  // The first step makes buffers and optimiser state.
  if (step > 0) {
    const whole = (performance.now() - started) / 1000;
    seconds.push(whole);
    phasesOfSteps.push({ passes: Object.values(phases).reduce((rest, part) => rest - part, whole), ...phases });
  }
}
group?.barrier();
const bytesPerStep = (sent() - start) / testCase.steps / world;

const { embedding, vision, layers, head } = model.parts();
const count = (modules) =>
  [...new Set(modules.flatMap((m) => m.parameters()))].reduce((sum, { numel }) => sum + numel, 0);
const gathered = {
  embedding: count(embedding),
  vision: count(vision),
  layers: count(layers.flat()),
  head: count(head),
};
const parameters = {
  trained: [...trained.values()].reduce((sum, { numel }) => sum + numel, 0),
  all: Object.values(gathered).reduce((a, b) => a + b, 0),
  gathered,
};
console.log(
  JSON.stringify({
    ...{ losses, seconds, phases: phasesOfSteps, bytesPerStep, parameters },
    peakMegabytes: process.resourceUsage().maxRSS / 1024,
  }),
);
group?.destroy();
