// Chameleon-7B's shape with random weights. After a build:
//   PYTHON=python3 node bench/chameleon.mjs [--part answer|picture] [--layers 32] [--threads 2] [--device cpu|cuda] [--repeat 3] [--json] [--save]
// answer: one 512x512 image and 60 text tokens in bfloat16, three latent steps of 64 patches, 16 new tokens, by phase beside the machine's
// floor, with the peak memory, which must stay below 20 GB. The model (14 GB) is made in memory; --layers makes a smaller one.
// picture: the picture tokenizer at its real size on one 512x512 picture, against transformers on the same weights in the same run, in float32
// and bfloat16; the codes are compared too. PYTHON must have torch and transformers (test/parity/python/requirements.txt).
// Each side runs in a process of its own, one after the other; times are those of its fastest run. --save writes bench/results/chameleon.json.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { circumstances, fail, here, round, runJson, save } from './run.mjs';

const { values } = parseArgs({
  options: {
    part: { type: 'string' },
    layers: { type: 'string', default: '32' },
    threads: { type: 'string', default: String(Math.min(2, os.availableParallelism())) },
    device: { type: 'string', default: 'cpu' },
    repeat: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const parts = values.part ? [values.part] : ['answer', 'picture'];
const python = process.env.PYTHON ?? 'python3';
// Both sides read it.
process.env.BENCH_DEVICE = values.device;
const MAX_GIGABYTES = 20;

const ours = (...args) =>
  runJson(process.execPath, [here('chameleon-ours.mjs'), values.threads, ...args], `ivtlr ${args[0]}`);

function answer() {
  const machine = ours('machine');
  const { runs, peakMegabytes, demand, tokens, distinct } = ours('answer', values.repeat, values.layers);
  const gemm = Math.max(...Object.values(machine.products)) * 1e9;
  const bandwidth = Math.max(...Object.values(machine.bandwidth)) * 1e9;
  const floor = {
    picture: demand.pictureFlops / (machine.convolution * 1e9),
    prompt: demand.promptFlops / gemm,
    latents: demand.latentFlops / gemm,
    decode: demand.decodeBytes / bandwidth,
  };
  const total = (run) => Object.values(run).reduce((a, b) => a + b, 0);
  const fastest = runs.reduce((a, b) => (total(b) < total(a) ? b : a));
  const row = (run) => Object.fromEntries(Object.entries({ ...run, total: total(run) }).map(([k, v]) => [k, round(v)]));
  const peakGigabytes = round(peakMegabytes / 1000);
  const result = {
    layers: Number(values.layers),
    seconds: { ivtlr: row(fastest), floor: row(floor) },
    timesFloor: round(total(fastest) / total(floor)),
    allRuns: runs.map((run) => round(total(run))),
    tokens,
    pickedAndImageTokens: distinct,
    weightGigabytes: round(demand.weightBytes / 1e9),
    peakGigabytes,
    machine: {
      gigaflopsPerSecond: round(gemm / 1e9),
      convolutionGigaflopsPerSecond: round(machine.convolution),
      gigabytesPerSecond: round(bandwidth / 1e9),
    },
  };
  if (!values.json) {
    console.log(
      `Chameleon, ${values.layers} layers, bfloat16, random weights: 1024 image and 60 text tokens, 3 latent steps of 64 patches`,
    );
    console.table(result.seconds);
    console.log(
      `${result.timesFloor} times the floor; ${round(15 / fastest.decode)} tokens/s; peak memory ${peakGigabytes} GB, weights ${result.weightGigabytes} GB`,
    );
  }
  return result;
}

function picture() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-bench-'));
  try {
    const peer = (...args) =>
      runJson(
        python,
        [here('chameleon_peer.py'), folder, '--threads', values.threads, '--repeat', values.repeat, ...args],
        `transformers ${args[0] ?? ''}`,
      );
    peer('--make');
    const result = {};
    for (const dtype of ['float32', 'bfloat16']) {
      const [us, them] = [ours('picture', values.repeat, folder, dtype), peer('--dtype', dtype)];
      const [mine, theirs] = [Math.min(...us.runs), Math.min(...them.runs)];
      result[dtype] = {
        ivtlr: round(mine),
        transformers: round(theirs),
        timesOurs: round(theirs / mine),
        equalCodes: us.codes.filter((code, i) => code === them.codes[i]).length,
        peakMegabytes: { ivtlr: Math.round(us.peakMegabytes), transformers: Math.round(them.peakMegabytes) },
        allRuns: { ivtlr: us.runs.map(round), transformers: them.runs.map(round) },
      };
      result.versions = { ...us.versions, ...them.versions };
    }
    if (!values.json)
      for (const dtype of ['float32', 'bfloat16']) {
        const { ivtlr, transformers, timesOurs, equalCodes } = result[dtype];
        console.log(
          `picture tokens of 512x512, ${dtype}: ivtlr ${ivtlr} s, transformers ${transformers} s (${timesOurs} times ours), ${equalCodes} of 1024 codes equal`,
        );
      }
    return result;
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

const PARTS = { answer, picture };
for (const part of parts) if (!PARTS[part]) fail(`--part is answer or picture, not ${part}`);
const before = circumstances(Number(values.threads));
const result = {
  command: `node bench/chameleon.mjs${values.part ? ` --part ${values.part}` : ''} --layers ${values.layers} --threads ${values.threads} --repeat ${values.repeat}`,
  ...before,
  ...Object.fromEntries(parts.map((part) => [part, PARTS[part]()])),
};
if (values.json) console.log(JSON.stringify(result, null, 2));
if (values.save) save('chameleon', result);
if (values.device === 'cpu' && result.answer?.peakGigabytes > MAX_GIGABYTES)
  fail(`peak memory is above ${MAX_GIGABYTES} GB`);
// Random weights put some places on the border of two codes in bfloat16; the same kernels should still agree.
if (values.device === 'cpu' && result.picture && result.picture.float32.equalCodes !== 1024)
  fail('codes differ from those of transformers');
