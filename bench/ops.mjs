// Cost of calling an op from TypeScript beside Python, and of one large matrix product. After a build:
//   PYTHON=python3 node bench/ops.mjs [--save] [--threads 1] [--rounds 20]
// PYTHON must have torch of the same version. Times are the best of several rounds, taken before and after Python's turn.
// --save writes bench/results/ops.json.
import { parseArgs } from 'node:util';
import { cat, noGrad, ones, scope, setNumThreads, torchVersion } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { circumstances, here, round, runJson, save } from './run.mjs';

const TARGET = 1.5;
const { values } = parseArgs({
  options: {
    save: { type: 'boolean', default: false },
    threads: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '20' },
  },
});
const threads = Number(values.threads);
const rounds = Number(values.rounds);
setNumThreads(threads);

const small = ones([16]);
const row = ones([1, 8]);
const weight = ones([8, 8]);
const bias = ones([8]);
const big = ones([1024, 1024]);

/** @type {Record<string, [count: number, call: () => unknown]>} */
const cases = {
  add: [1000, () => ops.add_Tensor(small, small)],
  add_method: [1000, () => small.add(small)],
  linear_1x8: [1000, () => ops.linear(row, weight, bias)],
  cat: [1000, () => cat([small, small], 0)],
  slice: [1000, () => small.slice(0, 2, 10)],
  reshape: [1000, () => small.reshape([4, 4])],
  softmax: [1000, () => small.softmax(-1)],
  matmul_1024: [4, () => big.matmul(big)],
};

/** @param {number} count @param {() => unknown} call @returns {number} microseconds per call, results freed by a scope */
function best(count, call) {
  let result = Number.POSITIVE_INFINITY;
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    scope(() => {
      for (let i = 0; i < count; i++) call();
    });
    result = Math.min(result, ((performance.now() - start) / count) * 1000);
  }
  return result;
}

/** @returns {Record<string, number>} */
const measure = () =>
  noGrad(() => Object.fromEntries(Object.entries(cases).map(([name, [count, call]]) => [name, best(count, call)])));

function measurePython() {
  const python = process.env.PYTHON ?? 'python3';
  return runJson(python, [here('ops.py'), String(threads), String(rounds)], 'Python (PYTHON: one with torch)');
}

measure(); // warm up
const before = measure();
const python = measurePython();
const after = measure();

const rows = Object.entries(python.microseconds).map(([name, theirs]) => {
  const ours = Math.min(before[name], after[name]);
  return { name, typescript: round(ours), python: round(theirs), ratio: round(ours / theirs) };
});

console.log(
  `best of ${rounds} rounds in microseconds, ${threads} thread(s); libtorch ${torchVersion()}, Python torch ${python.version}`,
);
console.table(Object.fromEntries(rows.map(({ name, ...rest }) => [name, rest])));
const calls = rows.filter(({ name }) => name !== 'matmul_1024');
const mean = Math.exp(calls.reduce((sum, { ratio }) => sum + Math.log(ratio), 0) / calls.length);
console.log(`op calls: ${round(mean)} times Python (geometric mean; target ${TARGET})`);

if (values.save) {
  const result = {
    command: `node bench/ops.mjs --threads ${threads} --rounds ${rounds}`,
    ...circumstances(threads),
    versions: { node: process.version, libtorch: torchVersion(), pythonTorch: python.version },
    unit: 'microseconds per call, best of rounds',
    geometricMeanRatio: round(mean),
    rows,
  };
  save('ops', result);
}
