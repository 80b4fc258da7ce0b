// How long the training loop waits while a checkpoint is written in the background. After a build:
//   node bench/checkpoint.mjs [--folder DIR] [--checkpoints 4] [--json] [--save]
// All weights and the optimiser's state of the 37M model of bench/train.mjs in float32 (444 MB). The loop waits while what a checkpoint holds is
// copied; the write is over when the folder is the latest checkpoint, synced. The first copy also asks the system for its memory. DIR is on the disk to
// measure. --save writes bench/results/checkpoint.json.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { zeros } from '@ivtlr/torch';
import { CheckpointWriter } from '../packages/ivtlr/dist/train/checkpoint-writer.js';
import { makeCase } from './inference-shapes.mjs';
import { randomModel } from './random-model.mjs';
import { circumstances, round, save } from './run.mjs';

const WANTED = 0.1;
const { values } = parseArgs({
  options: {
    folder: { type: 'string', default: os.tmpdir() },
    checkpoints: { type: 'string', default: '4' },
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
const waits = [];
const writes = [];
for (let step = 1; step <= Number(values.checkpoints); step++) {
  await writer.begin();
  const started = performance.now();
  writer.start(step, [
    { name: 'model.safetensors', content: { tensors: weights, metadata: {} } },
    { name: 'optimizer.safetensors', content: { tensors: state, metadata: {} } },
  ]);
  waits.push((performance.now() - started) / 1000);
  await writer.finish();
  writes.push((performance.now() - started) / 1000);
}
const shares = waits.map((wait, i) => wait / writes[i]);
const result = {
  command: 'node bench/checkpoint.mjs',
  ...before,
  megabytes: Math.round(megabytes),
  secondsWaited: waits.map(round),
  secondsWritten: writes.map(round),
  megabytesPerSecond: round(megabytes / writes.at(-1)),
  shares: shares.map(round),
};
if (values.json) console.log(JSON.stringify(result, null, 2));
else {
  console.log(`${result.megabytes} MB at ${result.megabytesPerSecond} MB/s`);
  console.table(waits.map((wait, i) => ({ waits: round(wait), write: round(writes[i]), share: round(shares[i]) })));
}
if (values.save) save('checkpoint', result);
if (Math.max(...shares.slice(1)) > WANTED) process.exit(1);
