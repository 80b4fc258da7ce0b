// The cost model of docs/scaling.md: memory of a GPU and time of a step by stage of ZeRO, for Qwen2-VL-7B on clusters of GPUs.
//   node bench/scaling-model.mjs [--json]
// Paper and pencil: nothing runs. Bandwidths and utilisations are the assumptions below. The same volumes are checked against what a run sent and took by
// bench/distributed.mjs (bench/results/distributed.json), whose rows are printed first.
import fs from 'node:fs';
import { parseArgs } from 'node:util';
import { here, round } from './run.mjs';
import { volumes } from './zero-volumes.mjs';

const { values } = parseArgs({ options: { json: { type: 'boolean', default: false } } });

/** Dense bfloat16 peak and memory from the makers' data sheets; what of it a training step reaches, and what collectives reach, are assumptions. */
const GPUS = {
  A100: { memory: 80e9, peak: 312e12, bandwidth: 2.0e12, link: 300e9 },
  H100: { memory: 80e9, peak: 989e12, bandwidth: 3.35e12, link: 450e9 },
};
const REACHED = { peak: 0.4, bandwidth: 0.7, link: 0.7 };
/** Bytes a second of one GPU's share of the network between machines: 400 Gbit/s each. */
const NETWORK = 50e9;
const CLUSTERS = [
  { name: '4xA100', gpu: 'A100', processes: 4, machines: 1 },
  { name: '8xH100', gpu: 'H100', processes: 8, machines: 1 },
  { name: '64xH100', gpu: 'H100', processes: 64, machines: 8 },
];

/** Qwen2-VL-7B, from its config.json. */
const MODEL = {
  ...{ hidden: 3584, layers: 28, kv: 512, inter: 18944, vocab: 152064 },
  vision: { depth: 32, width: 1280, mlp: 4 },
};
/** A micro-batch of the official settings: two rows of a 280x280 image, five latent steps of 32 patches. Text lengths are typical of M3CoT. */
const ROWS = { rows: 2, text: 150, image: 100, latents: 5, patches: 32, written: 100 };
const LORA_RANK = 64;

function parametersOf({ hidden, layers, kv, inter, vocab, vision }) {
  const layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inter + 3 * hidden + 2 * kv;
  const { depth, width, mlp } = vision;
  const tower = depth * ((4 + 2 * mlp) * width * width + (9 + mlp) * width) + 3 * 2 * 14 * 14 * width;
  const merger = 4 * width * (4 * width + hidden);
  const gathered = {
    embedding: vocab * hidden,
    vision: tower + merger,
    layers: layers * layer,
    head: vocab * hidden + hidden,
  };
  const projections = [hidden, kv, kv, hidden].reduce((sum, out) => sum + hidden + out, 0) + 3 * (hidden + inter);
  return {
    gathered,
    all: Object.values(gathered).reduce((a, b) => a + b),
    lora: layers * LORA_RANK * projections,
    layer,
  };
}

const counts = parametersOf(MODEL);

/** Bytes of one GPU: bfloat16 weights and gradients, float32 master copies and two moments (12 bytes a trained number), activations with checkpointing. */
function memoryOf(zero, trained, processes) {
  const of = (stage, bytes) => bytes / (zero >= stage ? processes : 1);
  const { rows, text, image, latents, patches, written } = ROWS;
  const tokens = rows * (text + image + latents * (patches + 1) + written);
  // Inputs of every layer, one layer run again, and float32 logits of the written text with their gradient.
  const { hidden, layers, kv, inter, vocab } = MODEL;
  const activations = 2 * tokens * (layers * hidden + 8 * hidden + 2 * kv + 4 * inter) + 12 * rows * written * vocab;
  // What is under way: two parts gathered (stage 3), two gradients sent (from stage 2 on).
  const { embedding } = counts.gathered;
  const transient =
    (zero === 3 ? 2 * (embedding + counts.layer) : 0) + (zero >= 2 && trained === counts.all ? 2 * 2 * embedding : 0);
  const parts = {
    weights: of(3, 2 * (counts.all + (trained === counts.all ? 0 : trained))),
    gradients: of(2, 2 * trained),
    optimizer: of(1, 12 * trained),
    activations,
    transient,
  };
  return { ...parts, total: Object.values(parts).reduce((a, b) => a + b) };
}

/** Seconds of the passes of one micro-batch: each is bound by its products or by reading its weights once. */
function passesOf(gpu, full) {
  const { rows, text, image, latents, patches, written } = ROWS;
  const { gathered } = counts;
  const seconds = (weights, tokens, times = 1) =>
    times *
    Math.max((2 * weights * tokens) / (gpu.peak * REACHED.peak), (2 * weights) / (gpu.bandwidth * REACHED.bandwidth));
  const { layers, vision, head } = gathered;
  const prompt = rows * (text + image);
  const step = rows * (patches + 1);
  const all = prompt + latents * step + rows * written;
  return {
    // The first latent step reads the prompt. With checkpointing the latent steps are taken without a graph, then all rows run once more.
    latent: [seconds(layers, prompt), ...Array.from({ length: latents - 1 }, () => seconds(layers, step))],
    vision: seconds(vision, 4 * rows * image, full ? 3 : 1),
    forward: seconds(layers, all) + seconds(head, rows * written),
    // Layers run again, then gradients of activations, and of weights where those are trained.
    backward: seconds(layers, all, full ? 3 : 2) + seconds(head, rows * written, full ? 2 : 1),
  };
}

function stepOf(cluster, zero, trained, micros) {
  const gpu = GPUS[cluster.gpu];
  const { processes, machines } = cluster;
  const full = trained === counts.all;
  const passes = passesOf(gpu, full);
  const micro = passes.latent.reduce((a, b) => a + b) + passes.vision + passes.forward + passes.backward;
  const update = (16 * trained * 1.5) / (zero > 0 ? processes : 1) / (gpu.bandwidth * REACHED.bandwidth);
  const compute = micros * micro + update;
  const sent = volumes(zero, micros, { ...counts, trained }, { latents: ROWS.latents, processes, bytes: 2 });
  // All GPUs of a machine share its network cards, so a ring over machines runs at the sum of the cards, or at the link's rate if that is less.
  const rate =
    Math.min(gpu.link, machines > 1 ? NETWORK * (processes / machines) : Number.POSITIVE_INFINITY) * REACHED.link;
  // Reductions hide behind the backward pass, gathers of stage 3 behind the pass that runs; what is longer is waited for.
  const reductions = (sent.allReduce + sent.reduceScatter) / rate;
  const hidden = passes.backward * (zero === 2 || zero === 3 ? micros : 1);
  let waits = Math.max(0, reductions - hidden);
  if (zero === 3) {
    const share = (2 * (processes - 1)) / processes / rate;
    const layers = share * counts.gathered.layers;
    const late = (seconds) => Math.max(0, layers - seconds);
    // A part is gathered while the one before is used, so the first one of each pass is waited for in any case.
    const first = share * (counts.layer + counts.gathered.embedding);
    waits +=
      micros *
      (passes.latent.reduce((sum, s) => sum + late(s), 0) + late(passes.forward) + late(passes.backward) + first);
  } else if (zero > 0) waits += sent.gather / rate;
  return { seconds: compute + waits, compute, waits, gigabytesSent: Object.values(sent).reduce((a, b) => a + b) / 1e9 };
}

const rows = [];
for (const [what, trained] of [
  ['LoRA', counts.lora],
  ['all weights', counts.all],
]) {
  for (const cluster of CLUSTERS) {
    // 64 rows a step as the official code has them, where there are as many micro-batches; and eight micro-batches a GPU.
    for (const micros of new Set([Math.max(1, 32 / cluster.processes), 8])) {
      for (const zero of [0, 1, 2, 3]) {
        const memory = memoryOf(zero, trained, cluster.processes);
        const { seconds, compute, waits, gigabytesSent } = stepOf(cluster, zero, trained, micros);
        rows.push({
          ...{ what, cluster: cluster.name, rowsPerStep: ROWS.rows * micros * cluster.processes, zero },
          gigabytes: round(memory.total / 1e9),
          fits: memory.total <= GPUS[cluster.gpu].memory * 0.95,
          seconds: round(seconds),
          computes: round(compute),
          waits: round(waits),
          efficiency: round(compute / seconds),
          gigabytesSent: round(gigabytesSent),
          rowsPerSecond: round((ROWS.rows * micros * cluster.processes) / seconds),
        });
      }
    }
  }
}

const file = here('results/distributed.json');
const measured = fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, 'utf8')) : null;
const check = (measured?.rows ?? [])
  .filter(({ side }) => side === 'ivtlr')
  .map(({ train, micros, zero, two, predicted, megabytesSent, formula }) => ({
    ...{ train, micros, zero, seconds: two, predicted, ofPredicted: round(two / predicted) },
    ...{ megabytesSent, formula, ofFormula: round(megabytesSent / formula) },
  }));
if (values.json) console.log(JSON.stringify({ parameters: counts, check, rows }, null, 2));
else {
  const { gathered, all, lora } = counts;
  const billions = Object.entries({ ...gathered, all, lora }).map(
    ([name, count]) => `${name} ${(count / 1e9).toFixed(3)}`,
  );
  console.log(`Qwen2-VL-7B, 10^9 parameters: ${billions.join(', ')}`);
  console.log('Measured beside the model (bench/results/distributed.json):');
  console.table(check);
  console.table(rows);
}
