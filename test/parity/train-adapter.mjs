// Trains a small LoRA adapter on goldens/hf-tiny-f32 (or, with qwen25 or qwen3, on that family's bf16-sharded folder in float32) and writes it with the logits it gives, for
// python/check_adapter.py. After a build:
//   node test/parity/train-adapter.mjs OUT [qwen25|qwen3] && python test/parity/python/check_adapter.py OUT [qwen25|qwen3]
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AdamW, manualSeed, noGrad, randn, scope } from '@ivtlr/torch';
import { LATENT_DEFAULTS } from '../../packages/ivtlr/dist/latent/options.js';
import { embedPrompt, Sequence } from '../../packages/ivtlr/dist/latent/sequence.js';
import { saveAdapter } from '../../packages/ivtlr/dist/lora/adapter-folder.js';
import { injectLora, loraParameters } from '../../packages/ivtlr/dist/lora/inject.js';
import { loadModel } from '../../packages/ivtlr/dist/models/registry.js';
import { trainingLoss } from '../../packages/ivtlr/dist/train/loss.js';

const [out, family] = process.argv.slice(2);
if (!out) {
  console.error('usage: node test/parity/train-adapter.mjs OUT [qwen25|qwen3]');
  process.exit(2);
}
const goldens = fileURLToPath(new URL('goldens', import.meta.url));
const read = (name) => JSON.parse(fs.readFileSync(path.join(goldens, name), 'utf8'));
const { targets, cases } = read('lora.json');
const { base, seed, input_ids: inputIds, labels, image_grid_thw: grids } = family ? newer() : cases[0];

/** The last nine tokens are learned. */
function newer() {
  const { stored } = read(`${family}-folders.json`);
  const { folder, input_ids: ids } = stored[0];
  return {
    ...stored[0],
    base: folder,
    input_ids: [ids],
    labels: [ids.map((id, i) => (i < ids.length - 9 ? -100 : id))],
  };
}

const [, height, width] = grids[0];
manualSeed(seed + 1);
const patchSize = family === 'qwen3' ? 16 : 14;
const image = {
  pixels: randn([height * width, 3 * 2 * patchSize ** 2]),
  grid: grids[0],
  tokens: (height * width) / 4,
  tokenGrid: [height / 2, width / 2],
  source: { width: width * patchSize, height: height * patchSize },
};
const batch = {
  inputIds,
  labels,
  attentionMask: inputIds.map((row) => row.map(() => 1)),
  latentStart: labels[0].findIndex((label) => label !== -100),
  latentSteps: 0,
  images: [[image]],
  pickTargets: [null],
};
const model = loadModel(path.join(goldens, base), { dtype: 'float32' });
const options = { rank: 3, alpha: 5, dropout: 0.1, targets };
injectLora(model.module, options);
model.module.train();
const optimizer = new AdamW(loraParameters(model.module), { lr: 5e-3 });
const losses = Array.from({ length: 20 }, () =>
  scope(() => {
    const options = { ...LATENT_DEFAULTS, positions: 'mrope', latentGradient: 'detached', pickSupervision: 0 };
    const { loss } = trainingLoss(model, batch, options);
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    return loss.item();
  }),
);
model.module.eval();
const logits = noGrad(() =>
  scope(() => {
    const prompt = embedPrompt(model, { ...batch, latentStart: inputIds[0].length }, 'mrope');
    const { hidden } = new Sequence(model, prompt, null, false).run();
    return model.logits(hidden.select(1, -1)).toNumbers();
  }),
);
for (const style of ['nested', 'flat']) {
  const folder = path.join(out, style);
  fs.mkdirSync(folder, { recursive: true });
  saveAdapter(model.module, folder, options, { baseModel: base, style });
}
fs.writeFileSync(path.join(out, 'result.json'), JSON.stringify({ losses, logits }));
console.log(
  `loss ${losses[0].toFixed(3)} -> ${losses.at(-1).toFixed(3)}; wrote ${out}/nested, ${out}/flat and ${out}/result.json`,
);
