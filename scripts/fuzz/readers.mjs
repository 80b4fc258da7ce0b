/** How each kind of input is read: the project's own functions, as far as a command would go. Resolves when the input was accepted. */
import fs from 'node:fs';
import path from 'node:path';
import { Linear, openCheckpoint, openPth, openSafetensors, scope } from '../../packages/torch/dist/index.js';

const module = (name) => import(`../../packages/ivtlr/dist/${name}.js`);
const { parseRecipe } = await module('config/load');
const { convertOfficial } = await module('convert/convert-official');
const { ask } = await module('engine/ask');
const { openWithoutWeights } = await module('engine/folder-rendering');
const { openModelFolder, readReasoningSettings } = await module('engine/loaded-model');
const { loadAdapter } = await module('lora/adapter-folder');
const { folderFamily, loadModel } = await module('models/registry');
const { streamSamples } = await module('tasks/read-samples');
const { findTask } = await module('tasks/registry');
const { decodeImage } = await module('vision/decode');
const { tokenizeSample } = await module('data/render');

const image = { kind: 'rgb', width: 56, height: 56, data: new Uint8Array(56 * 56 * 3) };

function readAll(file) {
  for (const name of file.names())
    scope(() => {
      file.read(name);
    });
}

function closing(file, use) {
  try {
    return use(file);
  } finally {
    file.close();
  }
}

async function samples(file, { task, skip }) {
  const onBad = ({ message }) => {
    complaints.push(message);
  };
  const complaints = [];
  for await (const sample of streamSamples(file, findTask(task), skip ? { onBad } : {}))
    if (!skip) for (const image of sample.images) await decodeImage(image);
  return complaints;
}

/** Kind -> reader of a folder. What it resolves to is further complaints that a user would see. */
export const readers = {
  async images(folder, { alpha }) {
    const bytes = new Uint8Array(fs.readFileSync(path.join(folder, 'image')));
    const { width, height, data } = await decodeImage({ kind: 'encoded', name: 'image', bytes }, { alpha });
    if (data.length !== width * height * 3) throw new Error(`${data.length} bytes for ${width}x${height}`);
  },
  async safetensors(folder, { whole }) {
    if (!whole) closing(openCheckpoint(folder), readAll);
    if (!whole) return loadModel(folder).module.dispose();
    closing(openSafetensors(path.join(folder, 'dtypes.safetensors')), (file) => {
      const layer = new Linear(2, 2);
      try {
        layer.loadStateDict(file, { strict: false });
      } finally {
        layer.dispose();
      }
      readAll(file);
    });
  },
  async pth(folder) {
    closing(openPth(path.join(folder, 'x.pth')), readAll);
  },
  parquet: (folder, options) => samples(path.join(folder, 'train.parquet'), options),
  async recipes(folder, { set }) {
    const file = path.join(folder, 'x.yaml');
    parseRecipe(fs.readFileSync(file, 'utf8'), file, set);
  },
  'json-lines': (folder, options) => samples(folder, options),
  async model(folder, { profile, ask: asks }) {
    const settings = readReasoningSettings(folder, folderFamily(folder), profile);
    if (asks) {
      const opened = openModelFolder(folder);
      try {
        const question = { images: [image], question: 'How many?', choices: ['one', 'two'] };
        for await (const event of ask(opened, [[question]], { maxNewTokens: 2 }))
          if (event.type === 'error') throw event.error;
      } finally {
        opened.model.module.dispose();
      }
      return;
    }
    const { inputs, renderOptions } = openWithoutWeights(folder, settings);
    const processed = await inputs.prepare(image);
    const sample = {
      ...{ id: 'a', images: [image], question: 'How many?', choices: [], rationale: 'First. Second.' },
      answer: '1',
    };
    for (const phase of ['train', 'infer'])
      await tokenizeSample(sample, [{ tokens: 4 }], phase, renderOptions('dominoes'));
    scope(() => {
      inputs.finish(processed);
    });
  },
  async adapter(folder, { base }) {
    const model = loadModel(base);
    try {
      loadAdapter(model.module, folder);
    } finally {
      model.module.dispose();
    }
  },
  async checkpoint(folder, { merge }) {
    const out = path.join(folder, 'out');
    const checkpoint = path.join(folder, 'model.pth');
    await convertOfficial({ checkpoint, base: folder, out, merge, task: 'm3cot' });
    fs.rmSync(out, { recursive: true });
  },
};
