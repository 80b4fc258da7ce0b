// This project's side of bench/train.mjs: reads the case, trains, prints one JSON object.
import fs from 'node:fs';
import path from 'node:path';
import {
  AdamW,
  cudaMemory,
  cudaResetPeakMemory,
  cudaSynchronize,
  liveTensorBytes,
  manualSeed,
  openSafetensors,
  randn,
  scope,
  setFlushDenormal,
  setNumThreads,
  torchVersion,
} from '@ivtlr/torch';
import { LATENT_DEFAULTS } from '../packages/ivtlr/dist/latent/options.js';
import { injectLora, loraParameters } from '../packages/ivtlr/dist/lora/inject.js';
import { loadModel } from '../packages/ivtlr/dist/models/registry.js';
import { trainingLoss } from '../packages/ivtlr/dist/train/loss.js';
import { randomModel } from './random-model.mjs';

const testCase = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const { ids, grid, images: count } = testCase;
setNumThreads(testCase.threads);
setFlushDenormal(true);
manualSeed(0);

const { device = 'cpu' } = testCase;
const model = testCase.folder ? loadModel(testCase.folder, { device }) : randomModel(testCase);
if (device !== 'cpu') cudaResetPeakMemory();
let trained;
if (testCase.lora) {
  injectLora(model.module, testCase.lora);
  model.module.train();
  trained = loraParameters(model.module);
} else {
  model.module.eval();
  model.module.setRequiresGrad(false);
  const wanted = (name) => testCase.trained.some((part) => name.includes(part));
  trained = new Map([...model.module.namedParameters()].filter(([name]) => wanted(name)));
  for (const parameter of trained.values()) parameter.requiresGrad = true;
}
const pixels = testCase.folder
  ? openSafetensors(path.join(testCase.folder, 'inputs.safetensors')).read('pixel_values')
  : randn([count * grid[0] * grid[1], 1176]);
const patches = grid[0] * grid[1];
const images = Array.from({ length: count }, (_, i) => ({
  pixels: pixels.narrow(0, i * patches, patches),
  grid: [1, ...grid],
  tokens: patches / 4,
  tokenGrid: grid.map((n) => n / 2),
  source: { width: grid[1] * 14, height: grid[0] * 14 },
}));
const { inputIds, attentionMask, labels } = testCase;
const batch = {
  inputIds,
  attentionMask,
  labels,
  latentSteps: testCase.latents,
  latentStart: inputIds[0].indexOf(ids.latent),
  images: images.map((image) => [image]),
  pickTargets: images.map(() => null),
};
const options = {
  ...LATENT_DEFAULTS,
  patches: testCase.patches,
  onExhausted: 'reuse',
  latentGradient: 'detached',
  pickSupervision: 0,
  activationCheckpointing: testCase.activationCheckpointing,
};
const optimizer = new AdamW(trained, { lr: testCase.lr, weightDecay: 0.01 });
const megabytes = (bytes) => bytes / 2 ** 20;
const startMegabytes = megabytes(process.memoryUsage.rss());
const losses = [];
const seconds = [];
const processor = [];
for (let step = 0; step < testCase.steps; step++) {
  const started = performance.now();
  const before = process.cpuUsage();
  scope(() => {
    const result = trainingLoss(model, batch, options);
    losses.push(result.loss.item());
    result.backward();
  });
  optimizer.step();
  optimizer.zeroGrad();
  if (device !== 'cpu') cudaSynchronize();
  seconds.push((performance.now() - started) / 1000);
  const { user, system } = process.cpuUsage(before);
  processor.push((user + system) / 1e6);
}
console.log(
  JSON.stringify({
    losses,
    seconds,
    processor,
    peakMegabytes: process.resourceUsage().maxRSS / 1024,
    ...(device !== 'cpu' && { gpuPeakMegabytes: megabytes(cudaMemory().peakAllocated) }),
    startMegabytes,
    tensorMegabytes: megabytes(liveTensorBytes()),
    trainedParameters: [...trained.values()].reduce((sum, { numel }) => sum + numel, 0),
    versions: { node: process.version, libtorch: torchVersion() },
  }),
);
