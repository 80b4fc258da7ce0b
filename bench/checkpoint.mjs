// What a checkpoint costs the training loop, which goes on while it is copied and written. After a build:
//   node bench/checkpoint.mjs [--folder DIR] [--checkpoints 8] [--json] [--save]
// All weights and the optimiser's state of the 37M model of bench/train.mjs in float32 (430 MB), copied while the loop does products of matrices for
// as long as a step takes (0.8 s), and written after that. The loop `waits` before the products (files are listed) and after them (for the rest of the
// copies); `slower` is what the products take longer than without a copy beside them, both cores and the memory being shared. The write is over when
// the folder is the latest checkpoint, synced. DIR is on the disk to measure. --save writes bench/results/checkpoint.json.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { randn, scope, setNumThreads, zeros } from '@ivtlr/torch';
import { CheckpointWriter } from '../packages/ivtlr/dist/train/checkpoint-writer.js';
import { makeCase } from './inference-shapes.mjs';
import { randomModel } from './random-model.mjs';
import { circumstances, round, save } from './run.mjs';

const WANTED = 0.1;
const { values } = parseArgs({
  options: {
    folder: { type: 'string', default: os.tmpdir() },
    checkpoints: { type: 'string', default: '8' },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const out = fs.mkdtempSync(path.join(values.folder, 'ivtlr-bench-'));
process.on('exit', () => fs.rmSync(out, { recursive: true, force: true }));
const before = circumstances(1);
const { config } = makeCase('qwen2-vl', 'small', 1);
const model = randomModel({ config: { ...config, tie_word_embeddings: false }, dtype: 'float32' });
const weights = new Map(model.module.namedParameters());
const state = new Map(
  [...weights].flatMap(([name, { shape }]) =>
    ['exp_avg', 'exp_avg_sq'].map((what) => [`${name}.${what}`, zeros(shape)]),
  ),
);
const megabytes = [...weights.values(), ...state.values()].reduce((sum, { nbytes }) => sum + nbytes, 0) / 2 ** 20;
const writer = new CheckpointWriter(out, 1);
setNumThreads(1);
const factor = randn([1024, 1024]);
let products = 1;
/** Seconds of the products of a step. */
function work() {
  const started = performance.now();
  for (let i = 0; i < products; i++) scope(() => factor.matmul(factor).select(0, 0).select(0, 0).item());
  return (performance.now() - started) / 1000;
}
const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
work();
products = Math.ceil(0.8 / work());
const rows = [];
for (let step = 1; step <= Number(values.checkpoints) + 1; step++) {
  const usual = work();
  await writer.begin();
  const started = performance.now();
  writer.start(step, [
    { name: 'model.safetensors', content: { tensors: weights, metadata: {} } },
    { name: 'optimizer.safetensors', content: { tensors: state, metadata: {} } },
  ]);
  const listed = performance.now() - started;
  const worked = work();
  const waiting = performance.now();
  writer.copied();
  const copied = performance.now();
  await writer.finish();
  const write = (performance.now() - copied) / 1000;
  // The first copy also asks the system for its memory.
  if (step > 1) rows.push({ waits: (listed + copied - waiting) / 1000, slower: worked - usual, write });
}
const middle = (key) => median(rows.map((row) => row[key]));
const share = middle('waits') / middle('write');
const result = {
  command: 'node bench/checkpoint.mjs',
  ...before,
  megabytes: Math.round(megabytes),
  rows: rows.map((row) => Object.fromEntries(Object.entries(row).map(([key, value]) => [key, round(value)]))),
  waits: round(middle('waits')),
  slower: round(middle('slower')),
  write: round(middle('write')),
  megabytesPerSecond: round(megabytes / middle('write')),
  share: round(share),
};
if (values.json) console.log(JSON.stringify(result, null, 2));
else {
  console.log(`${result.megabytes} MB at ${result.megabytesPerSecond} MB/s`);
  console.table(result.rows);
  console.log(`median: waits ${result.waits} s, ${result.share} of the write; the step is ${result.slower} s slower`);
}
if (values.save) save('checkpoint', result);
if (share > WANTED) process.exit(1);
