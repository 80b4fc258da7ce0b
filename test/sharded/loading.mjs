/**
 * One rank of a group that makes models of which each process keeps a part. The payload: {cases: [{name, config, folder, lora, zero}]}, where a
 * folder is loaded and a config drawn. Prints one line of JSON: by case, a hash of all parameters and of the next random number in a process that
 * makes the model whole and in the group, and in bytes the most that was held while the group made it, the shards, and the largest parameter.
 */
import { createHash } from 'node:crypto';
import { initProcessGroup, liveTensorBytes, manualSeed, randn, scope, setNumThreads } from '@ivtlr/torch';
import { injectLora } from '../../packages/ivtlr/dist/lora/inject.js';
import {
  createHollowModel,
  createModel,
  loadHollowModel,
  loadModel,
} from '../../packages/ivtlr/dist/models/registry.js';
import { ShardedParameters } from '../../packages/ivtlr/dist/parallel/sharded-parameters.js';

setNumThreads(1);
const { cases } = JSON.parse(process.argv[2]);
const group = initProcessGroup({ timeout: 60 });
const LORA = { rank: 2, alpha: 4, dropout: 0, targets: ['q_proj', 'down_proj'] };

function prepare(module, lora) {
  manualSeed(7);
  if (lora) injectLora(module, LORA);
  else module.setRequiresGrad(true);
}

function hashOf(module) {
  const hash = createHash('sha256');
  for (const [name, parameter] of module.namedParameters()) hash.update(name).update(parameter.bytes());
  scope(() => hash.update(randn([1]).bytes()));
  return hash.digest('hex');
}

const results = [];
for (const { name, config, folder, lora, zero } of cases) {
  const whole = folder ? loadModel(folder) : createModel(config, 5);
  prepare(whole.module, lora);
  const wanted = hashOf(whole.module);
  const largest = Math.max(...whole.module.parameters().map(({ nbytes }) => nbytes));
  whole.module.dispose();

  const base = liveTensorBytes();
  const { model, fill } = folder ? loadHollowModel(folder) : createHollowModel(config, 5);
  prepare(model.module, lora);
  let most = liveTensorBytes() - base;
  const watched = (taken) =>
    fill((parameter) => {
      const kept = taken(parameter);
      most = Math.max(most, liveTensorBytes() - base);
      return kept;
    });
  const sharded = new ShardedParameters(group, model.module, model.parts(), zero, { byDepth: true, fill: watched });
  const held = liveTensorBytes() - base;
  const found = await sharded.whole(() => hashOf(model.module));
  sharded.dispose();
  model.module.dispose();
  results.push({ name, wanted, found, most, held, largest });
}
console.log(JSON.stringify(results));
group.destroy();
