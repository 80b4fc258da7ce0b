// Speed on an NVIDIA GPU, beside transformers and the official code on the same one. After a build:
//   PYTHON=python3 node bench/gpu.mjs [--official DIR] [--device cuda] [--shape full|tiny] [--parts machine,answers,compiled,sample,training,chameleon,load,kernels] [--json] [--save]
// Qwen2-VL-7B's shape in bfloat16 with random weights (and 2B's, for one sample), one picture of 280x280 pixels, 60 text tokens. `answers`: tokens
// written at batch 1 and 32, one sample and evaluation in batches of 32 (three latent steps of 32 patches, 16 tokens), the vision tower; transformers
// with a static cache and SDPA (`compiled`: with torch.compile too). `sample`: bench/inference.mjs, against transformers and the official code at the
// same work. `training`: a step of a small model against the official code, and a LoRA step
// with activation checkpointing of the large one. `chameleon`: bench/chameleon.mjs, one sample of
// Chameleon-7B's shape and its image tokenizer. `load`: from a folder to the GPU. `kernels`: forms of attention. Every
// part runs in processes of its own, for at most two minutes each, and is saved at once; one that fails is named and the rest goes on.
// PYTHON has torch with CUDA and transformers. --save writes bench/results/GPU.json. --device cpu --shape tiny tries everything without a GPU.
// No GPU has been measured yet.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { demand, makeCase } from './inference-shapes.mjs';
import { circumstances, fail, here, round, save } from './run.mjs';

const { values } = parseArgs({
  options: {
    official: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
    shape: { type: 'string', default: 'full' },
    parts: { type: 'string', default: 'machine,answers,compiled,sample,training,chameleon,load,kernels' },
    threads: { type: 'string', default: String(Math.min(8, os.availableParallelism())) },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const PARTS = { machine, answers, compiled, sample, training, chameleon, load, kernels };
const chosen = values.parts.split(',');
for (const part of chosen) if (!PARTS[part]) fail(`--parts are ${Object.keys(PARTS).join(', ')}, not ${part}`);
if (!['full', 'tiny'].includes(values.shape)) fail(`--shape is full or tiny, not ${values.shape}`);
const SECONDS = values.device === 'cpu' ? 600 : 120;
const python = process.env.PYTHON ?? 'python3';
const large = values.shape === 'full';
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-gpu-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

const made = makeCase('qwen2-vl', large ? '7b' : 'tiny', Number(values.threads));
const testCase = {
  ...{ ...made, device: values.device, spread: false, dtype: 'bfloat16' },
  config: { ...made.config, tie_word_embeddings: !large },
  ...(large ? { batch: 32, decodeTokens: 160 } : { batch: 4, decodeTokens: 12 }),
};
const caseFile = path.join(folder, 'case.json');
fs.writeFileSync(caseFile, JSON.stringify(testCase));

const result = { ...circumstances(Number(values.threads)), gpu: null, case: values.shape, parts: {}, failed: {} };
for (const part of chosen) {
  console.error(`running ${part} ..`);
  try {
    result.parts[part] = PARTS[part]();
  } catch (error) {
    result.failed[part] = String(error.message);
    console.error(`${part} failed: ${error.message}`);
  }
  result.table = table();
  if (values.save) save((result.gpu ?? values.device).toLowerCase().replaceAll(/[^a-z0-9]+/g, '-'), result);
}
if (values.json) console.log(JSON.stringify(result, null, 2));
else {
  console.log(`${result.gpu ?? values.device}, ${values.shape}`);
  console.table(result.table);
}
process.exitCode = Object.keys(result.failed).length > 0 ? 1 : 0;

/** The object that a program prints as its last line. @throws Error with what it wrote when it fails or takes too long */
function json(command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    ...{ encoding: 'utf8', maxBuffer: 1 << 28, timeout: 1000 * SECONDS, killSignal: 'SIGKILL' },
  });
  if (error?.code === 'ETIMEDOUT') throw new Error(`not done after ${SECONDS} s`);
  if (status !== 0) throw new Error((stderr ?? String(error)).trim().split('\n').slice(-4).join(' | '));
  return JSON.parse(stdout.slice(stdout.indexOf('{')));
}

function ours(...args) {
  const got = json(process.execPath, [here('gpu-ours.mjs'), caseFile, ...args]);
  result.gpu ??= got.gpu ?? null;
  result.versions ??= got.versions;
  return got;
}

function machine() {
  return ours('machine');
}

function answers() {
  return { ivtlr: ours('answers'), transformers: json(python, [here('gpu_peer.py'), caseFile]) };
}

function compiled() {
  return json(python, [here('gpu_peer.py'), caseFile, '--compile']);
}

function sample() {
  const official = values.official ? ['--official', path.resolve(values.official)] : [];
  const sizes = large ? ['2b', '7b'] : ['tiny'];
  return Object.fromEntries(
    sizes.map((size) => [
      size,
      json(process.execPath, [
        ...[here('inference.mjs'), '--size', size, '--device', values.device, '--threads', values.threads],
        ...[...official, '--json'],
      ]),
    ]),
  );
}

/** The official code's step with all projections of a small model, and a LoRA step of the large one, which it is too slow and too large for here. */
function training() {
  const common = ['--device', values.device, '--threads', values.threads, '--json'];
  const step = (...args) => json(process.execPath, [here('train.mjs'), ...args, ...common]);
  return {
    ...(values.official && { small: step('--size', 'small', '--official', path.resolve(values.official)) }),
    ...(large && { large: step('--size', '7b') }),
  };
}

/** A small decoder where everything is only tried. */
function chameleon() {
  const size = large ? [] : ['--layers', '1', '--repeat', '1'];
  return json(process.execPath, [
    ...[here('chameleon.mjs'), '--device', values.device, '--threads', values.threads, ...size, '--json'],
  ]);
}

function load() {
  const into = path.join(folder, 'model');
  fs.mkdirSync(into);
  return ours('load', into);
}

function kernels() {
  return ours('kernels');
}

/** Our figures beside the others', the floor, and what is wanted where something is. */
function table() {
  const rows = {};
  const {
    machine: rates,
    answers: found,
    compiled: fast,
    sample: samples,
    training: step,
    load: loaded,
  } = result.parts;
  const most = (list) => Math.max(...Object.values(list)) * 1e9;
  const gemm = rates && most(rates.products);
  const bandwidth = rates && most(rates.bandwidth);
  const add = (name, row) => {
    rows[name] = Object.fromEntries(
      Object.entries(row)
        .filter(([, value]) => value != null && value !== false)
        .map(([key, value]) => [key, typeof value === 'number' ? round(value) : value]),
    );
  };
  const verdict = (got, bound, atMost) =>
    `${(atMost ? got <= bound : got >= bound) ? 'met' : 'not met'}: ${atMost ? 'at most' : 'at least'} ${bound}`;
  if (found) {
    const needs = demand(testCase);
    for (const [count, { secondsPerPass }] of Object.entries(found.ivtlr.decode)) {
      const floor = rates && needs.decodeBytes / (testCase.newTokens - 1) / bandwidth;
      add(`decode, batch ${count}, ms a token`, {
        ivtlr: 1000 * secondsPerPass,
        transformers: 1000 * found.transformers.decode[count].secondsPerPass,
        compiled: fast && 1000 * fast.decode[count].secondsPerPass,
        floor: floor && 1000 * floor,
        wanted: floor && count === '1' && `${verdict(secondsPerPass / floor, 1.25, true)} times the floor`,
      });
    }
    const { ivtlr, transformers } = found;
    add('vision tower, ms', {
      ivtlr: 1000 * ivtlr.vision.seconds,
      transformers: 1000 * transformers.vision.seconds,
      wanted: verdict(transformers.vision.seconds / ivtlr.vision.seconds, 1, false),
    });
    const one = samples?.[large ? '7b' : 'tiny']?.seconds.official?.total;
    const rate = ivtlr.evaluation.samplesPerSecond;
    add(`evaluation, batches of ${testCase.batch}, samples/s`, {
      ivtlr: rate,
      official: one && 1 / one,
      wanted: one && `${verdict(rate * one, 20, false)} times the official code`,
    });
  }
  for (const [size, { seconds }] of Object.entries(samples ?? {}))
    add(`one sample, ${size}, ms`, {
      ...Object.fromEntries(Object.entries(seconds).map(([side, { total }]) => [side, 1000 * total])),
      wanted:
        seconds.official &&
        `${verdict(seconds.official.total / seconds.ivtlr.total, 5, false)} times the official code`,
    });
  if (step?.small) {
    const { ivtlr, official } = step.small.sides;
    const memory = (side) => side.gpuPeakMegabytes ?? side.peakMegabytes;
    add('training step, small model, ms', {
      ...{ ivtlr: 1000 * ivtlr.secondsPerStep, official: 1000 * official.secondsPerStep },
      wanted: `${verdict(official.secondsPerStep / ivtlr.secondsPerStep, 3, false)} times the official code`,
    });
    add('its memory, MB', {
      ...{ ivtlr: memory(ivtlr), official: memory(official) },
      wanted: `${verdict(memory(ivtlr) / memory(official), 0.6, true)} times the official code's`,
    });
  }
  if (step?.large) {
    const { secondsPerStep, gpuPeakMegabytes } = step.large.sides.ivtlr;
    // Frozen weights are multiplied in the forward pass, once more since activations are not kept, and for the gradient of their inputs.
    const flops = found && 6 * found.ivtlr.parameters * Number(/of (\d+) columns/.exec(step.large.case)[1]);
    const floor = flops && gemm && flops / gemm;
    add('LoRA step, ms', {
      ...{ ivtlr: 1000 * secondsPerStep, floor: floor && 1000 * floor },
      wanted: floor && `${verdict(floor / secondsPerStep, 0.4, false)} of the product rate`,
    });
    add('its memory, GB', { ivtlr: gpuPeakMegabytes && gpuPeakMegabytes / 1024 });
  }
  const family = result.parts.chameleon;
  if (family) {
    const { ivtlr, floor } = family.answer.seconds;
    add('Chameleon, one sample, ms', { ivtlr: 1000 * ivtlr.total, floor: 1000 * floor.total });
    const { ivtlr: own, transformers: theirs } = family.picture.bfloat16;
    add('Chameleon, image tokens, ms', {
      ...{ ivtlr: 1000 * own, transformers: 1000 * theirs, wanted: verdict(theirs / own, 1, false) },
    });
  }
  if (loaded) add('load, GB/s', { ivtlr: loaded.gigabytesPerSecond });
  return rows;
}
