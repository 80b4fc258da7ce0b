// Latent reasoning on a model of random weights, timed by phase beside Python. After a build:
//   PYTHON=python3 node bench/inference.mjs [--family qwen2-vl|qwen2.5-vl|qwen3-vl|smolvlm] [--size tiny|..] [--official DIR] [--threads 2] [--device cpu|cuda] [--repeat 3] [--json] [--save]
// One image of 20x20 patches (280x280 pixels), 60 text tokens, 3 latent steps of 32 patches, 16 new tokens, against (a) transformers with SDPA and a key/value
// cache doing the same work and (b) the official code from the checkout DIR. Each runs in a process of its own, one after the other; times
// are those of its fastest run. PYTHON must have torch and transformers (test/parity/python/requirements.txt).
// The family smolvlm answers a picture of 2x2 tiles and the whole (320 image tokens): sizes 256m and 500m in bfloat16, 256m-float32 and 500m-float32.
// Size 2b is Qwen2-VL-2B in bfloat16 and takes about 5 GB and some minutes, 3b is Qwen2.5-VL-3B and takes about 8 GB, 2b of the family qwen3-vl is Qwen3-VL-2B and takes about 5 GB; tiny runs in float32 on one set of weights and compares picks
// and tokens too. --save writes bench/results/inference-[FAMILY-]SIZE.json; the official code knows
// the family qwen2-vl only.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { demand, FAMILIES, makeCase } from './inference-shapes.mjs';
import { circumstances, fail, here, round, runJson, save } from './run.mjs';

const { values } = parseArgs({
  options: {
    family: { type: 'string', default: 'qwen2-vl' },
    size: { type: 'string', default: 'tiny' },
    official: { type: 'string' },
    threads: { type: 'string', default: String(Math.min(2, os.availableParallelism())) },
    device: { type: 'string', default: 'cpu' },
    repeat: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const { family, size } = values;
if (!FAMILIES[family]) fail(`--family is ${Object.keys(FAMILIES).join(', ')}, not ${family}`);
const sizes = Object.keys(FAMILIES[family].sizes);
if (!sizes.includes(size)) fail(`--size of ${family} is ${sizes.join(', ')}, not ${size}`);
if (values.official && family !== 'qwen2-vl') fail('--official goes with --family qwen2-vl');
const chosen = family === 'qwen2-vl' ? size : `${family}-${size}`;
const python = process.env.PYTHON ?? 'python3';
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-bench-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

const peer = (which, ...rest) =>
  runJson(
    python,
    [here('inference_peer.py'), '--case', caseFile, '--which', which, '--repeat', values.repeat, ...rest],
    which,
  );

const testCase = { ...makeCase(family, size, Number(values.threads)), device: values.device };
const caseFile = path.join(folder, 'case.json');
if (testCase.spread) testCase.folder = folder;
fs.writeFileSync(caseFile, JSON.stringify(testCase));
if (testCase.spread) peer('make');

const before = circumstances(Number(values.threads));
const machine = runJson(process.execPath, [here('inference-ours.mjs'), caseFile, '1', '--floor'], 'the machine');
const sides = { ivtlr: runJson(process.execPath, [here('inference-ours.mjs'), caseFile, values.repeat], 'ivtlr') };
sides.transformers = peer('transformers');
if (values.official) sides.official = peer('official', '--official', path.resolve(values.official));
else if (family === 'qwen2-vl') console.error('official: skipped, no --official DIR given');

const total = ({ prefill, latents, decode }) => prefill + latents + decode;
const steps = testCase.newTokens - 1;
const needs = demand(testCase);
const gemm = Math.max(...Object.values(machine.products)) * 1e9;
const bandwidth = Math.max(...Object.values(machine.bandwidth)) * 1e9;
const floor = {
  prefill: needs.prefillFlops / gemm,
  latents: needs.latentFlops / gemm,
  decode: needs.decodeBytes / bandwidth,
};

const rows = {};
for (const [name, side] of Object.entries(sides)) {
  if (side.tokens.length !== testCase.newTokens)
    fail(`${name} wrote ${side.tokens.length} tokens, not ${testCase.newTokens}`);
  const fastest = side.runs.reduce((a, b) => (total(b) < total(a) ? b : a));
  rows[name] = {
    ...fastest,
    total: total(fastest),
    tokensPerSecond: steps / fastest.decode,
    peakMegabytes: side.peakMegabytes,
  };
}
rows.floor = {
  ...floor,
  total: total(floor),
  tokensPerSecond: steps / floor.decode,
  peakMegabytes: needs.weightBytes / 2 ** 20,
};
const ours = rows.ivtlr;
const ratios = Object.fromEntries(
  Object.keys(rows)
    .filter((name) => name !== 'ivtlr')
    .map((name) => [
      name,
      Object.fromEntries(
        ['prefill', 'latents', 'decode', 'total'].map((phase) => [phase, round(rows[name][phase] / ours[phase])]),
      ),
    ]),
);

let agreement = null;
if (testCase.spread) {
  const same = (key) =>
    Object.values(sides).every((side) => JSON.stringify(side[key]) === JSON.stringify(sides.ivtlr[key]));
  agreement = { picks: same('picks'), tokens: same('tokens') };
}

const result = {
  command: `node bench/inference.mjs${family === 'qwen2-vl' ? '' : ` --family ${family}`} --size ${size}${values.official ? ' --official DIR' : ''} --threads ${values.threads} --repeat ${values.repeat}`,
  ...before,
  versions: { ...sides.ivtlr.versions, ...sides.transformers.versions },
  case: `${chosen}, ${testCase.dtype}: ${testCase.prompt.length} prompt tokens, ${testCase.latents} latent steps of ${testCase.patches} patches, ${testCase.newTokens} new tokens`,
  seconds: Object.fromEntries(
    Object.entries(rows).map(([name, row]) => [
      name,
      Object.fromEntries(Object.entries(row).map(([k, v]) => [k, round(v)])),
    ]),
  ),
  timesOurs: ratios,
  allRuns: Object.fromEntries(
    Object.entries(sides).map(([name, { runs }]) => [name, runs.map((run) => round(total(run)))]),
  ),
  machine: {
    gigaflopsPerSecond: Object.fromEntries(Object.entries(machine.products).map(([k, v]) => [k, round(v)])),
    gigabytesPerSecond: Object.fromEntries(Object.entries(machine.bandwidth).map(([k, v]) => [k, round(v)])),
  },
  ...(agreement && { agreement }),
};

if (values.json) console.log(JSON.stringify(result, null, 2));
else {
  console.log(`${result.case}; ${result.hardware.cpu}, ${values.threads} threads`);
  console.table(
    Object.fromEntries(
      Object.entries(rows).map(([name, { tokensPerSecond, peakMegabytes, ...phases }]) => [
        name,
        {
          ...Object.fromEntries(Object.entries(phases).map(([phase, s]) => [`${phase} s`, round(s)])),
          'tokens/s': round(tokensPerSecond),
          'peak MB': Math.round(peakMegabytes),
          'total / ours': round(rows[name].total / ours.total),
        },
      ]),
    ),
  );
  console.log(
    'prefill: image and prompt to the first hidden state; latents: the rows of all latent steps, to the first token; decode: the rest',
  );
  console.log(
    `floor: ${round(gemm / 1e9)} GFLOP/s of ${testCase.dtype} products, ${round(bandwidth / 1e9)} GB/s of memory, weights alone as peak; ivtlr takes ${round(1 / ratios.floor.total)} times the floor (prefill ${round(1 / ratios.floor.prefill)}, latents ${round(1 / ratios.floor.latents)}, decode ${round(1 / ratios.floor.decode)})`,
  );
  if (agreement)
    console.log(`same picks: ${agreement.picks ? 'yes' : 'NO'}; same tokens: ${agreement.tokens ? 'yes' : 'NO'}`);
}

if (values.save) save(`inference-${chosen}`, result);
if (agreement && !(agreement.picks && agreement.tokens)) process.exit(1);
