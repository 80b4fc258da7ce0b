// Trains a small LoRA adapter on goldens/hf-tiny-f32 (or, with qwen25, qwen3 or smolvlm, on that family's bf16-sharded folder in float32) and writes it with the logits it gives, for
// python/check_adapter.py. After a build:
//   node test/parity/train-adapter.mjs OUT [qwen25|qwen3|smolvlm] && python test/parity/python/check_adapter.py OUT [qwen25|qwen3|smolvlm]
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
  console.error('usage: node test/parity/train-adapter.mjs OUT [qwen25|qwen3|smolvlm]');
  process.exit(2);
}
const goldens = fileURLToPath(new URL('goldens', import.meta.url));
const read = (name) => JSON.parse(fs.readFileSync(path.join(goldens, name), 'utf8'));
const { targets, cases } = read('lora.json');
const { base, seed, input_ids: inputIds, labels, ...golden } = family ? newer() : cases[0];

/** The last nine tokens are learned. */
function newer() {
  const { stored, sharded = stored[0] } = read(`${family}-folders.json`);
  const { folder, input_ids: ids } = sharded;
  return {
    ...sharded,
    base: folder,
    input_ids: [ids],
    labels: [ids.map((id, i) => (i < ids.length - 9 ? -100 : id))],
  };
}

function qwenImage([, height, width]) {
  const patchSize = family === 'qwen3' ? 16 : 14;
  return {
    pixels: randn([height * width, 3 * 2 * patchSize ** 2]),
    grid: [1, height, width],
    tokens: (height * width) / 4,
    tokenGrid: [height / 2, width / 2],
    source: { width: width * patchSize, height: height * patchSize },
  };
}

/** A picture cut into rows and columns of tiles, and the whole. */
function smolVlmImage([rows, columns]) {
  const { tile, config } = golden;
  const tiles = rows * columns + 1;
  const side = tile / config.vision_config.patch_size / config.scale_factor;
  return {
    pixels: randn([tiles, 3, tile, tile]),
    grid: [1, rows * side, columns * side],
    tokens: tiles * side ** 2,
    tokenGrid: [rows * side, columns * side],
    source: { width: columns * tile, height: rows * tile },
  };
}

manualSeed(seed + 1);
const image = family === 'smolvlm' ? smolVlmImage(golden.pictures[0]) : qwenImage(golden.image_grid_thw[0]);
const positions = family === 'smolvlm' ? 'sequential' : 'mrope';
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
    const options = { ...LATENT_DEFAULTS, positions, latentGradient: 'detached', pickSupervision: 0 };
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
    const prompt = embedPrompt(model, { ...batch, latentStart: inputIds[0].length }, positions);
    const { hidden } = new Sequence(model, prompt, null, false).run();
    return model.logits(hidden.select(1, -1)).toNumbers();
  }),
);
// How transformers names the decoder's layers depends on its version where it nests them.
const styles = model.pathStyle === 'nested' ? ['nested', 'flat'] : ['flat'];
for (const style of styles) {
  const folder = path.join(out, style);
  fs.mkdirSync(folder, { recursive: true });
  saveAdapter(model.module, folder, options, { baseModel: base, style });
}
fs.writeFileSync(path.join(out, 'result.json'), JSON.stringify({ losses, logits }));
const written = styles.map((style) => `${out}/${style}`).join(', ');
console.log(`loss ${losses[0].toFixed(3)} -> ${losses.at(-1).toFixed(3)}; wrote ${written} and ${out}/result.json`);
