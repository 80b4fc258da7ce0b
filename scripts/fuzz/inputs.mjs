/** Where inputs come from: good files of this repository or made on the fly, by kind, and how each kind damages them. */
import fs from 'node:fs';
import path from 'node:path';
import { damageBytes, damageJsonText, damageLines, pick } from './damage.mjs';
import { damageImage, damageParquet, damagePth, damageSafetensors } from './formats.mjs';

const root = new URL('../../', import.meta.url).pathname;
const at = (...parts) => path.join(root, ...parts);
const goldens = (name) => at('test/parity/goldens', name);

/** The small files of a folder. */
function filesOf(folder, pattern = /./, mostBytes = 50_000) {
  const names = fs.readdirSync(folder).filter((name) => pattern.test(name));
  const files = names.map((name) => [name, path.join(folder, name)]);
  const small = files.filter(([, file]) => fs.statSync(file).isFile() && fs.statSync(file).size <= mostBytes);
  return Object.fromEntries(small.sort().map(([name, file]) => [name, fs.readFileSync(file)]));
}

/** Half of the time damage that knows the format, else any. */
const either = (random, special, bytes) => (random.below(2) ? special(random, bytes) : damageBytes(random, bytes));

function damageFile(random, name, bytes) {
  if (name.endsWith('.safetensors')) return either(random, damageSafetensors, bytes);
  if (name.endsWith('.pth')) return either(random, damagePth, bytes);
  if (name.endsWith('.json') && random.below(8) > 0) return damageJsonText(random, JSON.parse(bytes.toString()));
  if (/\.(jinja|yaml)$/.test(name) && random.below(4) > 0) return Buffer.from(damageLines(random, bytes.toString()));
  return damageBytes(random, bytes);
}

/** Files with one of them damaged, now and then two, or one left out. */
function damageOne(random, files, pattern = /./) {
  const result = { ...files };
  const names = Object.keys(files).filter((name) => pattern.test(name));
  for (let left = 1 + Number(random.below(6) === 0); left > 0; left--) {
    const name = pick(random, names);
    if (random.below(30) === 0) delete result[name];
    else result[name] = damageFile(random, name, files[name]);
  }
  return result;
}

/**
 * Kind -> a function from a generator to one input: `files` (name -> bytes) in a folder of their own, `links` (name -> existing file) beside them,
 * and `options` for the reader (scripts/fuzz/readers.mjs).
 */
export async function inputKinds(folder) {
  const images = Object.values({
    ...filesOf(goldens('preprocess/images'), /\.(png|jpg|gif|webp)$/),
    ...filesOf(goldens('chameleon-images'), /\.png$/, 10_000),
  });
  const dtypes = filesOf(at('packages/torch/goldens'), /\.safetensors$/);
  const sharded = filesOf(goldens('hf-tiny-bf16-sharded'));
  const pickles = Object.values(filesOf(at('packages/torch/goldens/pth'), /\.pth$/));
  const parquet = Object.entries(filesOf(at('packages/ivtlr/src/data/goldens'), /\.parquet$/));
  const { makeDominoes } = await import('../../packages/ivtlr/dist/tasks/dominoes/make.js');
  parquet.push(['dominoes', fs.readFileSync(await makeDominoes({ rows: 3, out: folder }))]);
  const recipes = Object.values(filesOf(at('packages/ivtlr/recipes'), /\.yaml$/));
  recipes.push(
    Buffer.from(
      'project: x\nmodel_id: x\nsave_path: out\nnum_epochs: 3\nlr: 0.0001\nbatch_size_training: 2\ncoconut: True\n',
    ),
  );
  const rows = jsonRows(images[0]);
  const bundled = filesOf(at('packages/ivtlr/models/dominoes'), /\.json$/);
  const bundledWeights = { 'model.safetensors': at('packages/ivtlr/models/dominoes/model.safetensors') };
  bundled['generation_config.json'] = sharded['generation_config.json'];
  const template = JSON.parse(bundled['chat_template.json']).chat_template;
  const models = [
    { files: bundled, links: bundledWeights },
    { files: { ...bundled, 'chat_template.jinja': Buffer.from(template) }, links: bundledWeights },
    {
      files: { ...bundled, 'processor_config.json': wrapped(bundled['preprocessor_config.json']) },
      links: bundledWeights,
    },
    { files: filesOf(goldens('chameleon-checkpoint/base')) },
    { files: { ...bundled, ...filesOf(goldens('hf-tiny-flat-config'), /\.json$/) } },
  ];
  const adapter = filesOf(goldens('hf-tiny-lora'));
  const checkpoints = [
    [goldens('official-checkpoint/module-tied-bf16.pth'), goldens('official-checkpoint/base-tied')],
    [goldens('chameleon-checkpoint/model.pth'), goldens('chameleon-checkpoint/base')],
  ].map(([file, base]) => ({ checkpoint: fs.readFileSync(file), base: filesOf(base) }));

  return {
    images: (random) => ({
      files: { image: either(random, damageImage, pick(random, images)) },
      options: { alpha: pick(random, ['drop', 'white', 'blend']) },
    }),
    safetensors: (random) => {
      const whole = random.below(2) === 0;
      return {
        files: whole ? damageOne(random, dtypes) : damageOne(random, sharded, /safetensors/),
        options: { whole },
      };
    },
    pth: (random) => ({ files: { 'x.pth': damageFile(random, 'x.pth', pick(random, pickles)) } }),
    parquet: (random) => {
      const [name, bytes] = pick(random, parquet);
      const task = name.startsWith('scienceqa') ? 'scienceqa' : 'm3cot';
      return {
        files: { 'train.parquet': either(random, damageParquet, bytes) },
        options: { task, skip: random.below(2) === 0 },
      };
    },
    recipes: (random) => ({
      files: { 'x.yaml': damageFile(random, 'x.yaml', pick(random, recipes)) },
      options: { set: random.below(3) ? [] : [oddOverride(random)] },
    }),
    'json-lines': (random) => {
      const { task, lines } = pick(random, rows);
      const list = random.below(4) === 0;
      const changed = [...lines];
      const at = random.below(lines.length);
      changed[at] = damageJsonText(random, JSON.parse(lines[at])).toString();
      const text = list ? `[${changed.join(',')}]` : `${changed.join('\n')}\n`;
      const bytes = random.below(4) === 0 ? damageBytes(random, Buffer.from(text)) : Buffer.from(text);
      return {
        files: { [list ? 'train.json' : 'train.jsonl']: bytes, 'image.png': images[0] },
        options: { task, skip: random.below(2) === 0 },
      };
    },
    model: (random) => {
      const { files, links } = pick(random, models);
      const options = {
        profile: pick(random, ['official', 'consistent']),
        ask: Boolean(links) && random.below(2) === 0,
      };
      return { files: damageOne(random, files), links, options };
    },
    adapter: (random) => ({ files: damageOne(random, adapter), options: { base: goldens('hf-tiny-f32') } }),
    checkpoint: (random) => {
      const { checkpoint, base } = pick(random, checkpoints);
      const damaged = random.below(3) > 0;
      const files = damaged ? { ...base } : damageOne(random, base);
      files['model.pth'] = damaged ? damageFile(random, 'model.pth', checkpoint) : checkpoint;
      return { files, options: { merge: random.below(2) === 0 } };
    },
  };
}

function wrapped(preprocessor) {
  return Buffer.from(JSON.stringify({ image_processor: JSON.parse(preprocessor) }));
}

/** Rows of two tasks and of a conversation, with images inside and beside. */
function jsonRows(image) {
  const bytes = image.toString('base64');
  const row = {
    ...{ id: 'a', question: 'Which?', choices: ['one', 'two'], answer: 'B', rationale: 'First. Second.' },
    ...{ domain: 'science', topic: 'x', image: { bytes, path: 'x.png' } },
  };
  const science = {
    ...{ question: 'Which?', choices: ['one', 'two'], answer: 1, solution: 'First.', lecture: 'Second.', hint: '' },
    image: 'image.png',
  };
  const messages = [
    { role: 'user', content: '<image>Which?\nA. one\nB. two' },
    { role: 'assistant', content: 'First. The answer is B' },
  ];
  const conversation = { messages, images: ['image.png'] };
  return [
    {
      task: 'm3cot',
      lines: [row, { ...row, image: 'image.png' }, { ...row, image: null }].map((r) => JSON.stringify(r)),
    },
    { task: 'scienceqa', lines: [science, science].map((r) => JSON.stringify(r)) },
    { task: 'm3cot', lines: [conversation, conversation].map((r) => JSON.stringify(r)) },
  ];
}

function oddOverride(random) {
  const key = pick(random, [
    'train.numEpochs',
    'out',
    'latent.patches',
    'pretrain.0.name',
    'data',
    'a.b',
    '',
    'lr',
    'seed',
    '0.0',
  ]);
  const value = pick(random, [
    '',
    '1e400',
    '{',
    '[[[[',
    '*a',
    '&a [*a]',
    '!!x y',
    '-1',
    '../x',
    '\0',
    '🁢',
    '{a: 1}',
    '~',
    '1e15',
  ]);
  return random.below(10) === 0 ? key : `${key}=${value}`;
}
