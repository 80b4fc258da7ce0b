// Memory of training all weights of a 200M-parameter Qwen2-VL in float32 on several processes, for the ZeRO stages 0 to 3:
//   node bench/memory-processes.mjs [--processes 4] [--json] [--save]
// Every process has one thread and takes two steps of two micro-batches, one short row each. Counted are the bytes of the tensors that a process
// holds between the passes of a step, when activations are freed: weights, optimiser state, and gradients at their most, with those that are on
// their way to other processes. `step` is what is held when the optimiser moves the weights. Peaks are above `bare`, what the process had before the
// model was made. `making` (while the model was made and shared out) and `peak` (of everything) are resident memory, in which the shards of other
// processes count as well, since they are read in place; `proportionalPeak` divides each page by the number of processes that have it
// (PSS, looked at every 50 ms), so that the sum over the processes is what the machine holds.
// Stage 0 needs about 20 bytes a parameter and process: 17 GB for four. --save writes bench/results/memory-processes.json.
import { spawn } from 'node:child_process';
import net from 'node:net';
import os from 'node:os';
import { parseArgs } from 'node:util';
import { proportional } from './proportional-memory.mjs';
import { circumstances, fail, here, round, save } from './run.mjs';

/** Stage 3 holds at most so much of what stage 0 holds. */
const WANTED = 0.32;
const { values } = parseArgs({
  options: {
    processes: { type: 'string', default: '4' },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const processes = Number(values.processes);
const gigabytes = (20 * 2e8 * processes) / 1e9 + 1;
if (os.freemem() / 1e9 < gigabytes) fail(`this needs ${gigabytes.toFixed(0)} GB of free memory`);

function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

const children = new Set();
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});

/** One process's report, from the last line that it prints. */
function oneRank(rank, zero, port) {
  return new Promise((resolve) => {
    const env = { RANK: rank, LOCAL_RANK: rank, WORLD_SIZE: processes, LOCAL_WORLD_SIZE: processes };
    const child = spawn(process.execPath, [here('memory-processes-ours.mjs'), String(zero)], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, ...env, MASTER_ADDR: '127.0.0.1', MASTER_PORT: port, OMP_NUM_THREADS: 1 },
    });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (part) => {
      text += part;
    });
    children.add(child);
    let proportionalPeak = 0;
    const look = setInterval(() => {
      proportionalPeak = Math.max(proportionalPeak, proportional(child.pid));
    }, 50);
    child.once('close', (code) => {
      children.delete(child);
      clearInterval(look);
      if (code !== 0) fail(`zero ${zero}: rank ${rank} ended with exit code ${code}`);
      const report = JSON.parse(text.trim().split('\n').at(-1));
      resolve({ ...report, proportionalPeak: proportionalPeak - report.bareProportional });
    });
  });
}

const before = circumstances(1);
const stages = [];
for (const zero of [0, 1, 2, 3]) {
  console.error(`running zero ${zero} ..`);
  const port = await freePort();
  const ranks = await Promise.all(Array.from({ length: processes }, (_, rank) => oneRank(rank, zero, port)));
  const [{ parameters, losses, versions }] = ranks;
  if (ranks.some((rank) => JSON.stringify(rank.losses) !== JSON.stringify(losses)))
    fail('the processes have other losses');
  stages.push({ zero, parameters, losses, versions, ranks });
}
const [{ parameters, losses, versions }] = stages;
for (const stage of stages) {
  const off = Math.max(...stage.losses.map((loss, i) => Math.abs(loss / losses[i] - 1)));
  if (off > 1e-5) fail(`zero ${stage.zero} has other losses than zero 0: ${stage.losses} and ${losses}`);
}

/** Megabytes (2^20) of the process that has most. */
const most = (ranks, of) => Math.round(Math.max(...ranks.map(of)) / 2 ** 20);
const rows = stages.map(({ zero, ranks }) => ({
  zero,
  weights: most(ranks, (rank) => rank.weights),
  gradients: most(ranks, (rank) => rank.gradients),
  optimiser: most(ranks, (rank) => rank.optimiser),
  step: most(ranks, (rank) => rank.weights + rank.gradients + rank.optimiser),
  gradientsAtMost: most(ranks, (rank) => rank.gradientsAtMost),
  counted: most(ranks, (rank) => rank.weights + rank.gradientsAtMost + rank.optimiser),
  making: most(ranks, (rank) => rank.peakOfMaking - rank.bare),
  peak: most(ranks, (rank) => rank.peak - rank.bare),
  proportionalPeak: most(ranks, (rank) => rank.proportionalPeak),
  peakOfEach: ranks.map((rank) => Math.round((rank.peak - rank.bare) / 2 ** 20)),
  bare: most(ranks, (rank) => rank.bare),
}));
const share = (name) => rows.map((row) => round(row[name] / rows[0][name]));
const result = {
  command: `node bench/memory-processes.mjs --processes ${processes}`,
  ...before,
  versions,
  parameters,
  processes,
  unit: 'megabytes of 2^20 bytes, of the process that has most; peaks are above `bare`',
  stages: rows,
  stepShare: share('step'),
  countedShare: share('counted'),
  peakShare: share('peak'),
  proportionalPeakShare: share('proportionalPeak'),
  losses: losses.map((loss) => Number(loss.toPrecision(7))),
};
if (values.json) console.log(JSON.stringify(result, null, 2));
else {
  console.log(`${(parameters / 1e6).toFixed(0)}M parameters, float32, ${processes} processes; megabytes a process`);
  console.table(
    rows.map(({ peakOfEach, ...row }, i) => ({
      ...row,
      share: result.countedShare[i],
      peakShare: result.peakShare[i],
      proportionalPeakShare: result.proportionalPeakShare[i],
    })),
  );
}
if (values.save) save('memory-processes', result);
if (result.countedShare[3] > WANTED && processes === 4)
  fail(`zero 3 holds ${result.countedShare[3]} of zero 0 (wanted: ${WANTED})`);
