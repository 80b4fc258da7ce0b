/**
 * One rank of a group that trains while things go wrong in some of its processes. The payload: {recipe, faults: [{kind, rank, step}]}; steps count
 * from 1. Prints one line of JSON: how it ended, and a hash of the parameters.
 */
import { createHash } from 'node:crypto';
import { rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { initProcessGroup, setNumThreads } from '@ivtlr/torch';
import { recipeSchema } from '../../packages/ivtlr/dist/config/schema.js';
import { UserError } from '../../packages/ivtlr/dist/errors.js';
import { GroupRanks } from '../../packages/ivtlr/dist/parallel/ranks.js';
import { assembleRun } from '../../packages/ivtlr/dist/runs/assemble-run.js';
import { runTraining } from '../../packages/ivtlr/dist/train/loop.js';

const { recipe: settings, faults } = JSON.parse(process.argv[2]);
setNumThreads(1);
const recipe = recipeSchema.parse(settings);
const group = initProcessGroup({ timeout: recipe.parallel.timeout });
const ranks = new GroupRanks(group);
let step = 0;
const hits = (kind) => faults.some((fault) => fault.kind === kind && fault.rank === ranks.rank && fault.step === step);
const sleep = (milliseconds) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);

const run = await assembleRun(recipe, {
  device: 'cpu',
  resume: null,
  reporter: {
    step() {},
    note() {},
  },
  hub: {},
  stopRequested: () => (hits('SIGINT') ? 'SIGINT' : hits('SIGTERM') ? 'SIGTERM' : null),
  ranks,
  group,
});
const { batches, trainee } = run;
let made = 0;
run.batches = async (position) => {
  const wanted = ++made;
  const bad = faults.some(({ kind, rank, step: at }) => kind === 'bad row' && rank === ranks.rank && at === wanted);
  if (bad) throw new UserError(`row ${wanted} cannot be used`);
  return batches(position);
};
const begin = run.update.startStep.bind(run.update);
let updating = false;
run.update.startStep = () => {
  if (!updating) step++;
  begin();
};
const discard = run.update.discard.bind(run.update);
run.update.discard = () => {
  updating = true;
  discard();
  updating = false;
};
const { loss } = trainee;
trainee.loss = (micro, observer) => {
  if (hits('crash')) throw new Error('the kernel failed');
  const started = performance.now();
  const result = loss(micro, observer);
  if (hits('slow')) sleep(49 * (performance.now() - started));
  const factor = hits('NaN') ? Number.NaN : hits('spike') ? 100 : 1;
  return factor === 1
    ? result
    : { ...result, loss: result.loss.mul(factor), backward: (f) => result.backward(f * factor) };
};
run.reporter.step = () => {
  if (!hits('disk full') || ranks.rank > 0) return;
  const file = join(recipe.out, 'metrics.jsonl');
  rmSync(file);
  symlinkSync('/dev/full', file);
};

const hash = createHash('sha256');
const update = run.update;
const dispose = update.dispose.bind(update);
update.dispose = () => {};
let ended;
try {
  const { step: steps, stopped } = await runTraining(run);
  ended = { how: stopped ?? 'done', steps };
} catch (error) {
  ended = { how: 'error', message: error.message };
}
await update.whole(() => {
  for (const parameter of trainee.parameters.values()) hash.update(parameter.bytes());
});
console.log(JSON.stringify({ ...ended, weights: hash.digest('hex') }));
dispose();
run[Symbol.dispose]();
group.destroy();
