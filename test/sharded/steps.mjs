/**
 * One rank of a group that trains several recipes for some steps each, one after the other. The payload: {runs: [{name, recipe}], steps, folder}.
 * The first rank writes NAME.json (losses) and NAME.safetensors (what was trained) into the folder.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { initProcessGroup, saveSafetensors, setNumThreads } from '@ivtlr/torch';
import { recipeSchema } from '../../packages/ivtlr/dist/config/schema.js';
import { ALONE, GroupRanks } from '../../packages/ivtlr/dist/parallel/ranks.js';
import { WholeUpdate } from '../../packages/ivtlr/dist/parallel/update.js';
import { assembleRun } from '../../packages/ivtlr/dist/runs/assemble-run.js';
import { disposeBatches } from '../../packages/ivtlr/dist/train/batches.js';
import { adamWOptions } from '../../packages/ivtlr/dist/train/loop.js';
import { positionOf } from '../../packages/ivtlr/dist/train/schedule.js';
import { trainStep } from '../../packages/ivtlr/dist/train/step.js';

const { runs, steps, folder } = JSON.parse(process.argv[2]);
setNumThreads(1);
const alone = process.env.WORLD_SIZE === '1';
const group = alone ? null : initProcessGroup({ timeout: 60 });
const ranks = group ? new GroupRanks(group) : ALONE;
const reporter = { step() {}, note() {} };
for (const { name, recipe: settings } of runs) {
  const recipe = recipeSchema.parse(settings);
  const context = { device: 'cpu', resume: null, reporter, hub: {}, stopRequested: () => null, ranks, group };
  const run = await assembleRun(recipe, context);
  const update = run.update ?? new WholeUpdate(run.trainee.parameters, adamWOptions(recipe.optimizer));
  const losses = [];
  for (let step = 0; step < steps; step++) {
    const micros = await run.batches(positionOf(run.plan, step));
    const { lr, clip } = recipe.optimizer;
    losses.push(trainStep(run.trainee, micros, { ranks, update, lr, clip }).loss);
    disposeBatches(micros);
  }
  await update.whole(() => {
    if (ranks.rank > 0) return;
    writeFileSync(join(folder, `${name}.json`), JSON.stringify(losses));
    saveSafetensors(join(folder, `${name}.safetensors`), run.trainee.parameters);
  });
  update.dispose();
  run[Symbol.dispose]();
}
group?.destroy();
