// Weak scaling: one process with one thread against two with one thread each, where every process has as many micro-batches as the one alone.
//   PYTHON=python3 node bench/distributed.mjs --official DIR [--steps 5] [--turns 3] [--micros 1,4] [--train all,lora]
//     [--zero 0,1,2,3] [--only ivtlr] [--json] [--save]
// The 37M model of bench/train.mjs in float32; a micro-batch is one row with a 280x280 image, 60 text tokens, 3 latent steps of 32 patches and 25
// written tokens. Trained are all weights, or LoRA of rank 16 on the decoder's projections. Peers: the official code under PyTorch's
// DistributedDataParallel and fully_shard (FSDP2), which keep as much as our stage of ZeRO does:
//   zero 0  DistributedDataParallel
//   zero 1  fully_shard that keeps gathered parameters and reduces gradients once a step
//   zero 2  fully_shard that keeps gathered parameters and reduces gradients with every micro-batch
//   zero 3  fully_shard that gathers parameters for every pass
// Two processes run in turn with one alone; the turn of median efficiency is shown, `efficiencies` has all. Seconds are the median step's;
// `milliseconds` (JSON) are its parts: passes with what is sent beside them, reductions that are left, norm, update. `predicted` is the cost model
// of docs/scaling.md: the time apart, and the bytes of each collective at the rates that it reaches by itself. `apart` is two processes that know
// nothing of each other: what the machine itself loses by having both cores busy.
// Bytes are those that the loopback device counts, a step and process, beside the formula of the stage. PYTHON needs
// test/parity/python/requirements.txt. Rows that are not asked for (--only ivtlr, --micros, --train, --zero) are those of the saved result. --save writes bench/results/distributed.json.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { makeCase } from './inference-shapes.mjs';
import { circumstances, fail, here, round, runJson, save } from './run.mjs';
import { volumes } from './zero-volumes.mjs';

const WANTED = { efficiency: 0.85, bytes: 0.05 };
const PROJECTIONS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
const { values } = parseArgs({
  options: {
    official: { type: 'string' },
    steps: { type: 'string', default: '5' },
    turns: { type: 'string', default: '3' },
    micros: { type: 'string', default: '1,4' },
    train: { type: 'string', default: 'all,lora' },
    zero: { type: 'string', default: '0,1,2,3' },
    only: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const python = process.env.PYTHON ?? 'python3';
const withPeer = values.only !== 'ivtlr';
if (!values.official) fail('--official DIR: a checkout of the official code is the peer, and makes the weights');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-bench-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

const testCase = rowCase();
const caseFile = path.join(folder, 'case.json');
fs.writeFileSync(caseFile, JSON.stringify(testCase));

function rowCase() {
  const base = makeCase('qwen2-vl', 'small', 1);
  const { ids, prompt, latents, grid, patches, config, dims } = base;
  const written = Array.from({ length: 25 }, (_, i) => (i * 7919) % (dims.vocab - 16));
  const row = [...prompt, ...new Array(latents).fill(ids.latent), ...written];
  return {
    ...{ ids, grid, patches, latents, folder, official: path.resolve(values.official) },
    config: { ...config, tie_word_embeddings: false },
    inputIds: [row],
    labels: [[...new Array(row.length - written.length).fill(-100), ...written]],
    attentionMask: [row.map(() => 1)],
    positionIds: [row.map((_, at) => at)],
    lora: { rank: 16, alpha: 16, dropout: 0, targets: PROJECTIONS },
    lr: 1e-5,
    steps: Number(values.steps),
  };
}

function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Runs a side in so many processes; resolves to what each printed last. */
async function runRanks(command, args, world, name) {
  const port = await freePort();
  const ranks = Array.from({ length: world }, (_, rank) => {
    const child = spawn(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        ...{ RANK: String(rank), WORLD_SIZE: String(world), LOCAL_RANK: String(rank), LOCAL_WORLD_SIZE: String(world) },
        ...{ MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port), OMP_NUM_THREADS: '1' },
      },
    });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (text) => {
      stdout += text;
    });
    child.stderr.on('data', (text) => {
      stderr += text;
    });
    return new Promise((resolve) =>
      child.on('close', (code) => {
        if (code !== 0) fail(`${name} failed (${command} ${args.join(' ')}):\n${stderr}`);
        resolve(JSON.parse(stdout.trim().split('\n').at(-1)));
      }),
    );
  });
  return Promise.all(ranks);
}

const sideOf = {
  ivtlr: (how, world) =>
    runRanks(process.execPath, [here('distributed-ours.mjs'), caseFile, JSON.stringify(how)], world, 'ivtlr'),
  peer: (how, world) =>
    runRanks(python, [here('distributed_peer.py'), caseFile, JSON.stringify(how)], world, 'the official code'),
};
const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
/** A step takes as long as its slowest process. */
const secondsOf = (ranks) =>
  median(ranks[0].seconds.map((_, i) => Math.max(...ranks.map(({ seconds }) => seconds[i]))));
/** Medians over the steps of the first process, in milliseconds. */
const phasesOf = ([{ phases }]) =>
  phases &&
  Object.fromEntries(
    Object.keys(phases[0]).map((name) => [name, round(1000 * median(phases.map((step) => step[name])))]),
  );

/**
 * Runs `two` in turn with one process alone, since the machine is not the same all the time; gives the turn of median efficiency, of all the
 * seconds alone (`one`) over those of two.
 */
async function beside(alone, two) {
  const turns = [];
  let before = await alone();
  while (turns.length < Number(values.turns)) {
    const ranks = await two();
    const after = await alone();
    const [one, seconds] = [(secondsOf(before) + secondsOf(after)) / 2, secondsOf(ranks)];
    turns.push({ one, seconds, efficiency: one / seconds, ranks, alone: after });
    before = after;
  }
  turns.sort((a, b) => a.efficiency - b.efficiency);
  const efficiencies = turns.map(({ efficiency }) => efficiency);
  return { ...turns[Math.floor(turns.length / 2)], efficiencies };
}

runJson(
  python,
  [here('distributed_peer.py'), caseFile, JSON.stringify({ make: true })],
  'the official code, to make the weights',
);
const before = circumstances(1);
const calibration = await sideOf.ivtlr({ calibrate: true, train: 'all', micros: 1, zero: 0 }, 2);
const { rates } = calibration[0];
const rows = [];
for (const train of values.train.split(',')) {
  for (const micros of values.micros.split(',').map(Number)) {
    const sides = withPeer ? ['ivtlr', 'peer'] : ['ivtlr'];
    for (const side of sides) {
      const alone = () => sideOf[side]({ train, micros, zero: null }, 1);
      const apart =
        side === 'ivtlr' && (await beside(alone, async () => (await Promise.all([alone(), alone()])).flat()));
      for (const zero of values.zero.split(',').map(Number)) {
        console.error(`${side}: ${train}, ${micros} micro-batches, zero ${zero} ..`);
        const two = await beside(alone, () => sideOf[side]({ train, micros, zero }, 2));
        const { bytesPerStep, parameters, losses } = two.ranks[0];
        const sent = volumes(zero, micros, parameters, { latents: testCase.latents, processes: 2 });
        // Each process has one core, which computes or sends: nothing can overlap here.
        const sending = Object.keys(sent).reduce((sum, kind) => sum + sent[kind] / rates[kind], 0);
        rows.push({
          ...{ side, train, micros, zero },
          alone: round(two.one),
          two: round(two.seconds),
          efficiency: round(two.efficiency),
          efficiencies: two.efficiencies.map(round),
          ...(apart && {
            apart: round(apart.efficiency),
            predicted: round(two.one / apart.efficiency + sending),
            milliseconds: { alone: phasesOf(two.alone), apart: phasesOf(apart.ranks), two: phasesOf(two.ranks) },
          }),
          megabytesSent: round(bytesPerStep / 2 ** 20),
          formula: round(Object.values(sent).reduce((a, b) => a + b) / 2 ** 20),
          losses: losses.map((loss) => Number(loss.toPrecision(7))),
        });
      }
    }
  }
}

// What is not measured this time stays as it was saved.
const saved = here('results/distributed.json');
const same = (a, b) => ['side', 'train', 'micros', 'zero'].every((key) => a[key] === b[key]);
if (fs.existsSync(saved))
  rows.push(...JSON.parse(fs.readFileSync(saved, 'utf8')).rows.filter((old) => !rows.some((row) => same(row, old))));
const place = ({ side, train, micros, zero }) => `${train}${micros}${side}${zero}`;
rows.sort((a, b) => (place(a) < place(b) ? -1 : 1));
const ours = rows.filter(({ side }) => side === 'ivtlr');
const peerOf = (row) =>
  rows.find((other) => other.side === 'peer' && ['train', 'micros', 'zero'].every((key) => other[key] === row[key]));
const checks = {
  bytesWithin: Math.max(...ours.map(({ megabytesSent, formula }) => Math.abs(megabytesSent / formula - 1))),
  leastEfficiencyOfFour: Math.min(...ours.filter(({ micros }) => micros === 4).map(({ efficiency }) => efficiency)),
  behindThePeer: ours
    .filter((row) => peerOf(row)?.efficiency > row.efficiency)
    .map(({ train, micros, zero }) => `${train}, ${micros} micro-batches, zero ${zero}`),
  largestLossDifference: Math.max(
    ...ours
      .filter((row) => row.train === 'all' && peerOf(row))
      .flatMap((row) => row.losses.map((loss, i) => Math.abs(loss / (peerOf(row).losses[i] ?? Number.NaN) - 1)))
      .filter((difference) => !Number.isNaN(difference)),
  ),
};
const result = {
  command: `node bench/distributed.mjs --official DIR --steps ${values.steps} --turns ${values.turns}`,
  ...before,
  megabytesPerSecond: Object.fromEntries(Object.entries(rates).map(([kind, rate]) => [kind, round(rate / 2 ** 20)])),
  rows,
  ...checks,
};
if (values.json) console.log(JSON.stringify(result, null, 2));
else {
  console.log(`${result.hardware.cpu}, one thread a process`);
  console.table(
    rows.map(({ losses, milliseconds, efficiencies, ...rest }) => ({
      ...rest,
      firstLoss: losses[0],
      lastLoss: losses.at(-1),
    })),
  );
  console.log(checks);
}
if (values.save) save('distributed', result);
if (checks.bytesWithin > WANTED.bytes) process.exit(1);
