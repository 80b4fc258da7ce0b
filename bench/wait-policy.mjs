// What waiting OpenMP threads cost: the same work under several wait policies, on the machine as it is and with as many busy processes beside it
// as it has cores. After a build:
//   node bench/wait-policy.mjs [--threads 2] [--rounds 3] [--save]
// `decode`: one token of a decoder with Qwen2-VL-2B's layer shapes, eight layers, in bfloat16: many short parallel stretches, milliseconds a token.
// `dominoes`: `ivtlr eval` of 100 fresh samples on the bundled model, seconds. Best of the rounds, every round in a process of its own.
// A spin count of 300,000 is what libgomp does when nothing is set, 0 is OMP_WAIT_POLICY=passive; `package` is what @ivtlr/torch sets by itself.
// --save writes bench/results/wait-policy.json.
import { spawn } from 'node:child_process';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { circumstances, here, round, run, save } from './run.mjs';

const { values } = parseArgs({
  options: {
    threads: { type: 'string', default: String(Math.min(2, os.availableParallelism())) },
    rounds: { type: 'string', default: '3' },
    decode: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});

/** Milliseconds a token. */
async function decode() {
  const { inferenceMode, linear, randn, rmsNorm, scope, setNumThreads } = await import('@ivtlr/torch');
  setNumThreads(Number(values.threads));
  const shapes = [
    [1536, 2048],
    [1536, 1536],
    [1536, 17920],
    [8960, 1536],
  ];
  return inferenceMode(() => {
    const norm = randn([1536]).to('bfloat16');
    const layers = Array.from({ length: 8 }, () =>
      shapes.map(([inputs, outputs]) => [
        randn([1, inputs]).to('bfloat16'),
        randn([outputs, inputs]).mul(0.01).to('bfloat16'),
      ]),
    );
    const times = [];
    for (let token = 0; token < 40; token++) {
      const start = performance.now();
      scope(() => {
        for (const layer of layers)
          for (const [x, weight] of layer) rmsNorm(linear(x, weight).narrow(1, 0, 1536), norm, 1e-6);
      });
      times.push(performance.now() - start);
    }
    return times.sort((a, b) => a - b)[times.length / 2];
  });
}

if (values.decode) {
  console.log(await decode());
  process.exit();
}

const policies = {
  package: {},
  'spin 0': { GOMP_SPINCOUNT: '0' },
  'spin 1,000': { GOMP_SPINCOUNT: '1000' },
  'spin 10,000': { GOMP_SPINCOUNT: '10000' },
  'spin 300,000': { GOMP_SPINCOUNT: '300000' },
};
const model = here('../packages/ivtlr/models/dominoes');
const bin = here('../packages/ivtlr/bin/ivtlr.mjs');
const works = {
  decode: () =>
    Number(run(process.execPath, [fileURLToPath(import.meta.url), '--decode', '--threads', values.threads], 'decode')),
  dominoes: () => {
    const start = performance.now();
    run(process.execPath, [bin, 'eval', '--model', model, '--limit', '100', '--threads', values.threads], 'dominoes');
    return (performance.now() - start) / 1000;
  },
};

function measure() {
  const best = {};
  for (const [policy, environment] of Object.entries(policies)) {
    for (const name of ['GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'KMP_BLOCKTIME']) delete process.env[name];
    Object.assign(process.env, environment);
    best[policy] = {};
    for (const [name, work] of Object.entries(works))
      best[policy][name] = round(Math.min(...Array.from({ length: Number(values.rounds) }, work)));
  }
  return best;
}

const before = circumstances(Number(values.threads));
const result = { ...before, asItIs: measure() };
const spinners = Array.from({ length: os.availableParallelism() }, () =>
  spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }),
);
try {
  result.busy = measure();
} finally {
  for (const spinner of spinners) spinner.kill();
}
for (const state of ['asItIs', 'busy']) {
  console.log(state === 'busy' ? `with ${spinners.length} busy processes beside it` : 'the machine as it is');
  console.table(result[state]);
}
if (values.save) save('wait-policy', result);
