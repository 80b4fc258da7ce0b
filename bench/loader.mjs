// How fast images of real size reach the trainer, and whether memory stays flat. After a build:
//   [PYTHON=python3] node bench/loader.mjs [--threads 2] [--samples 5000] [--step-ms 100] [--json] [--save]
// The data: a Parquet file in M3CoT's schema, 64 different JPEGs of 1024x768 drawn here, read as training reads it. Measured: samples/s at once in
// the trainer's thread; samples/s prepared ahead by threads; how long a trainer with a step of `--step-ms` a sample (during which the
// processor is free, as with a GPU) waits for data; resident memory along `--samples` samples. Wanted: it never waits (less than 5 % of the
// time), and memory after the first two fifths, when the heaps of the threads have settled, grows by less than 5 %. With PYTHON
// (test/parity/python/requirements.txt) Pillow and transformers' processor do the same on the same files in one process. --save writes
// bench/results/loader.json.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { liveTensorCount, setNumThreads } from '@ivtlr/torch';
import { Prefetch } from '../packages/ivtlr/dist/data/prefetch.js';
import { OFFICIAL_INPUTS, Qwen2VlInputs } from '../packages/ivtlr/dist/models/qwen2-vl/inputs.js';
import { m3cot } from '../packages/ivtlr/dist/tasks/m3cot/m3cot.js';
import { readSamples } from '../packages/ivtlr/dist/tasks/read-samples.js';
import { epochOrder } from '../packages/ivtlr/dist/train/batches.js';
import { ImagePool } from '../packages/ivtlr/dist/vision/image-pool.js';
import { photo, writeSamples } from './photos.mjs';
import { circumstances, here, runJson, save } from './run.mjs';

const WANTED = { waiting: 0.05, growth: 0.05 };
const ROWS = 256;
const AHEAD = 32;
const { values } = parseArgs({
  options: {
    threads: { type: 'string', default: String(Math.max(1, Math.min(4, os.availableParallelism()))) },
    samples: { type: 'string', default: '5000' },
    'step-ms': { type: 'string', default: '100' },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const threads = Number(values.threads);
const total = Number(values.samples);
const stepMs = Number(values['step-ms']);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-loader-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
setNumThreads(1);

async function makeData() {
  const photos = [];
  for (let seed = 0; seed < 64; seed++) photos.push(await photo(seed));
  photos.forEach((bytes, i) => {
    fs.writeFileSync(path.join(folder, `${i}.jpg`), bytes);
  });
  const file = path.join(folder, 'train.parquet');
  await writeSamples(file, ROWS, photos, () => ({ question: 'q', choices: ['a', 'b'] }));
  return {
    samples: await readSamples(file, m3cot),
    bytes: photos.reduce((sum, { length }) => sum + length, 0) / photos.length,
  };
}

const { samples, bytes } = await makeData();
const before = circumstances(threads);
const inputs = new Qwen2VlInputs({}, OFFICIAL_INPUTS);
const source = {
  samplesPerEpoch: samples.length,
  sample: async (epoch, place) => samples[epochOrder(0, epoch, samples.length)[place]],
};

/** Takes samples as a trainer does; `work` is its step. Returns seconds in all and seconds waited. */
async function consume(loader, from, count, work) {
  const started = performance.now();
  let waited = 0;
  for (let position = from; position < from + count; position++) {
    const asked = performance.now();
    const sample = await loader.sample(Math.floor(position / ROWS), position % ROWS);
    const image = await loader.processImage(sample.images[0]);
    waited += performance.now() - asked;
    image.pixels.dispose();
    work?.();
  }
  return { seconds: (performance.now() - started) / 1000, waited: waited / 1000 };
}

const rest = new Int32Array(new SharedArrayBuffer(4));
/** Blocks this thread and leaves the processor free, as waiting for a GPU does. */
const step = () => Atomics.wait(rest, 0, 0, stepMs);
const megabytes = () => Math.round(process.memoryUsage().rss / 2 ** 20);

const direct = { sample: source.sample, processImage: (image) => inputs.processImage(image) };
await consume(direct, 0, 20);
const cpuBefore = process.cpuUsage();
const inline = 100 / (await consume(direct, 0, 100)).seconds;
const cpu = process.cpuUsage(cpuBefore);

const pool = new ImagePool(inputs.preparation, threads);
const ahead = new Prefetch(source, pool, inputs, { ahead: AHEAD });
await consume(ahead, 0, 50); // threads start and warm up
const training = await consume(ahead, 50, 200, step);
const memory = [];
let seconds = 0;
for (let done = 0; done < total; done += 500) {
  const count = Math.min(500, total - done);
  seconds += (await consume(ahead, 250 + done, count)).seconds;
  memory.push(megabytes());
  if (!values.json) console.error(`${done + count} samples, ${memory.at(-1)} MB`);
}
ahead.clear();
await pool.close();

const settled = memory.slice(Math.ceil((2 * memory.length) / 5) - 1);
const report = {
  command: `node bench/loader.mjs --threads ${threads} --samples ${total} --step-ms ${stepMs}`,
  ...before,
  picture: { width: 1024, height: 768, kilobytes: Math.round(bytes / 1024), to: '280x280' },
  samplesPerSecond: { inline, ahead: total / seconds },
  /** Work of one sample; unlike the rates it hardly depends on what else the machine does. */
  processorMsPerSample: (cpu.user + cpu.system) / 1000 / 100,
  training: {
    stepMs,
    samples: 200,
    waitedMsPerSample: (1000 * training.waited) / 200,
    waitedPart: training.waited / training.seconds,
  },
  memory: { everySamples: 500, megabytes: memory, growth: settled.at(-1) / settled[0] - 1 },
  tensorsLeft: liveTensorCount(),
};

if (process.env.PYTHON) {
  report.peer = runJson(process.env.PYTHON, [here('loader_peer.py'), folder], 'Pillow and transformers');
}

const ok = report.training.waitedPart <= WANTED.waiting && report.memory.growth <= WANTED.growth;
if (values.save) {
  save('loader', report);
}
if (values.json) console.log(JSON.stringify(report));
else {
  console.log(
    `images 1024x768, ${report.picture.kilobytes} KB, to 280x280; ${threads} threads on ${report.hardware.cores} cores`,
  );
  console.log(`one sample takes ${report.processorMsPerSample.toFixed(1)} ms of a processor`);
  console.log(
    `in the trainer's thread ${inline.toFixed(1)} samples/s; ahead ${report.samplesPerSecond.ahead.toFixed(1)} samples/s`,
  );
  if (report.peer)
    console.log(
      `Pillow and transformers, one process: ${report.peer.samplesPerSecond.toFixed(1)} samples/s, ${report.peer.processorMsPerSample.toFixed(1)} ms of a processor`,
    );
  const { waitedMsPerSample, waitedPart } = report.training;
  console.log(
    `a trainer with ${stepMs} ms a sample waits ${waitedMsPerSample.toFixed(1)} ms, ${(100 * waitedPart).toFixed(1)} % of its time`,
  );
  console.log(`memory ${memory.join(' ')} MB, growth ${(100 * report.memory.growth).toFixed(1)} %`);
  console.log(ok ? 'as wanted' : `NOT as wanted: waiting <= ${WANTED.waiting}, growth <= ${WANTED.growth}`);
}
process.exitCode = ok ? 0 : 1;
