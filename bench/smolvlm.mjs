// Training steps and evaluation of SmolVLM-256M's shape with random weights, through `ivtlr train` and `ivtlr eval`. After a build:
//   node bench/smolvlm.mjs [--threads 2] [--processes 1] [--dtype float32] [--samples 4] [--steps 2] [--save]
// Threads are those of a process. The recipe smolvlm-256m-m3cot as it is (512x512 pictures, LoRA on the decoder, activation checkpointing), but batches of --samples rows and
// stages of one epoch: 0, 1, 2 and 3 latent steps, those of the recipe's sixteen epochs. Of each stage the fastest step counts. Then --samples
// rows are answered with three latent steps and 16 tokens. Pictures are noise of 640x480; questions and rationales are as long as M3CoT's are in the middle.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { scope } from '@ivtlr/torch';
import sharp from 'sharp';
import { saveModel } from '../packages/ivtlr/dist/models/registry.js';
import { makeCase } from './inference-shapes.mjs';
import { randomModel } from './random-model.mjs';
import { circumstances, fail, round, save } from './run.mjs';

const { values } = parseArgs({
  options: {
    threads: { type: 'string', default: '2' },
    processes: { type: 'string', default: '1' },
    dtype: { type: 'string', default: 'float32' },
    samples: { type: 'string', default: '4' },
    steps: { type: 'string', default: '2' },
    save: { type: 'boolean', default: false },
  },
});
const threads = Number(values.threads);
const samples = Number(values.samples);
const processes = Number(values.processes);
const EPOCH = 7863; // training rows of M3CoT
const EPOCHS = 16;
const STAGES = 4;
const root = fileURLToPath(new URL('..', import.meta.url));
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-smolvlm-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

/** A folder of the shape, with the small tokenizer of the tests: its ids are the first ones of the vocabulary. */
function writeModel(model) {
  fs.cpSync(path.join(root, 'test/parity/goldens/smolvlm-tokenizer'), model, { recursive: true });
  const { added_tokens: added } = JSON.parse(fs.readFileSync(path.join(model, 'tokenizer.json'), 'utf8'));
  const { config } = makeCase('smolvlm', '256m', threads);
  config.image_token_id = added.find(({ content }) => content === '<image>').id;
  const preprocessor = { size: { longest_edge: 2048 }, max_image_size: { longest_edge: 512 }, resample: 1 };
  fs.writeFileSync(path.join(model, 'preprocessor_config.json'), JSON.stringify(preprocessor));
  scope(() => saveModel(randomModel({ config, dtype: values.dtype }), config, model));
}

async function writeData(data) {
  fs.mkdirSync(data);
  const pixels = new Uint8Array(640 * 480 * 3).map((_, i) => (i * 37 + (i >> 9)) % 256);
  await sharp(pixels, { raw: { width: 640, height: 480, channels: 3 } })
    .jpeg()
    .toFile(path.join(data, 'picture.jpg'));
  const sentence = 'The picture shows a red disk to the left of a blue box on grey ground. ';
  const row = {
    ...{ question: sentence.repeat(2), choices: ['disk', 'box', 'triangle', 'ground'], answer: 'A' },
    ...{ rationale: sentence.repeat(6), image: 'picture.jpg', domain: 'science', topic: 'physics' },
  };
  const lines = Array.from({ length: samples * Number(values.steps) }, (_, i) =>
    JSON.stringify({ id: `r${i}`, ...row }),
  );
  for (const split of ['train', 'validation', 'test'])
    fs.writeFileSync(path.join(data, `${split}.jsonl`), lines.join('\n'));
}

function ivtlr(...args) {
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [path.join(root, 'packages/ivtlr/bin/ivtlr.mjs'), ...args],
    { encoding: 'utf8' },
  );
  if (status !== 0) fail(`ivtlr ${args[0]}: ${stderr}`);
  return { stdout, seconds: (performance.now() - started) / 1000 };
}

const model = path.join(folder, 'model');
const data = path.join(folder, 'data');
const out = path.join(folder, 'run');
writeModel(model);
await writeData(data);
const before = circumstances(threads);
const set = {
  ...{
    model,
    out,
    threads,
    dtype: values.dtype,
    'data.folder': data,
    'data.validation.samples': 0,
    'checkpoint.best': false,
    tensorboard: false,
  },
  ...{
    globalBatch: samples,
    microBatch: 2,
    numEpochs: STAGES,
    'latent.epochsPerStage': 1,
    'checkpoint.stageModels': false,
  },
};
const parallel = processes > 1 ? ['--processes', `${processes}`] : [];
ivtlr(
  'train',
  'smolvlm-256m-m3cot',
  ...parallel,
  ...Object.entries(set).flatMap(([key, value]) => ['--set', `${key}=${value}`]),
);
const steps = fs
  .readFileSync(path.join(out, 'metrics.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line))
  .filter(({ kind }) => kind === 'step');
const perStep = Number(values.steps);
const stages = Array.from({ length: STAGES }, (_, stage) => steps.slice(stage * perStep, (stage + 1) * perStep));
const secondsOf = (stage) => 1 / Math.max(...stage.map(({ samplesPerSecond }) => samplesPerSecond));
const trained = stages.map(secondsOf);
const evaluated = ivtlr(
  'eval',
  '--model',
  path.join(out, 'model'),
  '--data',
  data,
  '--limit',
  String(samples),
  '--batch',
  String(samples),
  '--threads',
  String(threads),
  '--max-new-tokens',
  '16',
  '--json',
);
const report = JSON.parse(evaluated.stdout).results[0];
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
// Equally many epochs at each stage.
const days = (EPOCH * (EPOCHS / STAGES) * sum(trained)) / 86400;
const result = {
  command: `node bench/smolvlm.mjs --threads ${threads} --processes ${processes} --dtype ${values.dtype} --samples ${samples} --steps ${perStep}`,
  ...before,
  case: `SmolVLM-256M's shape, ${values.dtype}, 512x512 (64 image tokens), LoRA of rank 64, micro-batches of 2, ${processes} ${processes > 1 ? 'processes' : 'process'}`,
  trainingSecondsPerSampleByStage: trained.map((seconds) => round(seconds)),
  evaluation: { secondsPerSample: round(report.secondsPerSample), newTokens: 16 },
  m3cotDays: { epochs: EPOCHS, days: round(days) },
};
console.log(JSON.stringify(result, null, 1));
if (values.save) save(`smolvlm-256m-training${processes > 1 ? `-${processes}-processes` : ''}`, result);
