// Asks the engine of the bundled model many questions, in one process and without a server, and looks for anything that grows:
//   node --expose-gc test/soak/engine.mjs [--requests 10000] [--rows 16] [--pictures 60]
// Questions differ in picture, latent steps, patches, length and sampling; one in eight is cancelled half-way, one in sixteen cannot be answered. What
// is held after the first fifth is compared with what is held at the end. Exit code 1 when there is more of anything.
import { parseArgs } from 'node:util';
import { liveTensorCount, setNumThreads } from '@ivtlr/torch';
import { Asker } from '../../packages/ivtlr/dist/engine/ask.js';
import { bundledModel } from '../../packages/ivtlr/dist/engine/bundled-model.js';
import { openModelFolder } from '../../packages/ivtlr/dist/engine/loaded-model.js';
import { dominoesSample } from '../../packages/ivtlr/dist/tasks/dominoes/generator.js';

const number = (value) => ({ type: 'string', default: String(value) });
const { values } = parseArgs({ options: { requests: number(10_000), rows: number(16), pictures: number(60) } });
const [requests, rows, pictures] = ['requests', 'rows', 'pictures'].map((name) => Number(values[name]));

setNumThreads(1);
const opened = openModelFolder(bundledModel('dominoes'));
const puzzles = Array.from({ length: pictures }, (_, seed) => dominoesSample(seed, 'test', 0));
const asker = await Asker.open(opened, {
  rows,
  pieceTokens: 16,
  of: ({ own }) => own,
  imageKeys: ({ keys }) => keys,
  // Room for half of the pictures, so that some are let go all the time.
  keptImageBytes: (pictures / 2) * 16 * opened.model.hiddenSize * 4,
});

let state = 1;
const below = (n) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};

function question(number) {
  const which = below(pictures);
  const { images, question, choices } = puzzles[which];
  const wrong = number % 16 === 5;
  const own = {
    ...{ latentSteps: below(4), maxNewTokens: 1 + below(6), seed: number },
    latent: { patches: 1 + below(3), latentVision: below(4) === 0 ? 'random' : 'on' },
    sampling: { temperature: below(2), repetitionPenalty: below(3) === 0 ? 1.2 : 1 },
    trace: below(3) === 0,
    ...(wrong && { latentSteps: 1, forcePatches: [[99]] }),
  };
  return { images, question, choices, keys: [String(which)], own, leaves: number % 8 === 3 };
}

const counts = { answered: 0, cancelled: 0, refused: 0 };
async function ask(from, to) {
  let next = from;
  const running = new Set();
  while (next < to || running.size > 0) {
    while (next < to && asker.hasRoomFor(1)) {
      const one = question(next++);
      running.add(one);
      take(await asker.begin([one]));
    }
    take(asker.step());
    for (const one of running)
      if (one.leaves && one.steps === 2) {
        asker.cancel(one);
        running.delete(one);
        counts.cancelled++;
      } else one.steps = (one.steps ?? 0) + 1;
    await new Promise((resolve) => setImmediate(resolve));
  }
  function take(events) {
    for (const { type, question: one } of events) {
      if (type !== 'end' && type !== 'error') continue;
      running.delete(one);
      counts[type === 'end' ? 'answered' : 'refused']++;
    }
  }
}

function held() {
  for (let i = 0; i < 3; i++) globalThis.gc();
  const { heapUsed, rss } = process.memoryUsage();
  return { tensors: liveTensorCount(), cacheBytes: asker.cacheBytes, heapUsed, rss };
}

if (!globalThis.gc) throw new Error('run it with node --expose-gc');
const warm = Math.floor(requests / 5);
await ask(0, warm);
const before = held();
await ask(warm, requests);
const after = held();
const mebibytes = (bytes) => (bytes / 2 ** 20).toFixed(1);
const line = ({ tensors, cacheBytes, heapUsed, rss }) =>
  `${tensors} tensors, ${mebibytes(cacheBytes)} MiB of keys and values, heap ${mebibytes(heapUsed)} MiB, resident ${mebibytes(rss)} MiB`;
console.log(`${requests} requests: ${JSON.stringify(counts)}`);
console.log(`after ${warm}: ${line(before)}`);
console.log(`at the end: ${line(after)}`);
const grown = [
  after.tensors > before.tensors + 4 && 'tensors',
  after.cacheBytes > before.cacheBytes && 'keys and values',
  after.heapUsed > before.heapUsed + 2 * 2 ** 20 && 'the heap',
  after.rss > before.rss * 1.25 && 'resident memory',
  asker.size > 0 && 'questions under way',
].filter(Boolean);
console.log(grown.length > 0 ? `GROWN: ${grown.join(', ')}` : 'nothing grew');
process.exit(grown.length > 0 ? 1 : 0);
