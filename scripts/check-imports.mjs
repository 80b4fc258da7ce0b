// Dependencies point one way (docs/architecture.md). Every folder of a package lists the folders it may import; anything else is an error.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');

/** Folder -> folders it may import (itself always). A file at the top of src/ stands for itself. */
const RULES = {
  'packages/torch/src': {
    core: [],
    'ops.gen': ['core'],
    nn: ['core', 'ops.gen'],
    io: ['core', 'ops.gen', 'nn'],
    optim: ['core', 'ops.gen', 'nn'],
    dist: ['core'],
    index: ['core', 'nn', 'io', 'optim', 'dist'],
  },
  'packages/ivtlr/src': {
    errors: ['printable'],
    random: [],
    files: ['errors'],
    'file-contents': ['errors', 'files'],
    'compiled-module': [],
    printable: [],
    hub: ['errors', 'files'],
    text: ['errors', 'files'],
    vision: ['errors', 'files', 'compiled-module', 'printable'],
    models: ['errors', 'files', 'file-contents', 'compiled-module', 'text', 'vision'],
    lora: ['errors', 'files', 'file-contents', 'models/types'],
    data: ['errors', 'files', 'random', 'text', 'vision', 'models/types'],
    latent: ['errors', 'files', 'random', 'vision', 'data', 'models/types', 'models/common'],
    tasks: ['errors', 'files', 'random', 'text', 'vision', 'data'],
    parallel: ['models/types'],
    launch: ['errors', 'files'],
    train: [
      'errors',
      'files',
      'file-contents',
      'compiled-module',
      'random',
      'text',
      'data',
      'latent',
      'tasks',
      'models/types',
      'parallel',
    ],
    eval: ['errors', 'files', 'random', 'text', 'vision', 'data', 'latent', 'tasks', 'models/types', 'engine', 'pool'],
    pool: ['errors', 'compiled-module', 'text', 'vision', 'data', 'models/types', 'engine'],
    engine: ['errors', 'files', 'file-contents', 'hub', 'text', 'vision', 'models', 'lora', 'data', 'latent', 'tasks'],
    convert: ['errors', 'files', 'file-contents', 'text', 'models', 'lora', 'latent', 'engine'],
    inspect: ['errors', 'files', 'text', 'vision', 'data', 'latent', 'tasks', 'models/types', 'engine'],
    trace: ['errors', 'files', 'text', 'vision', 'latent', 'engine', 'eval'],
    config: ['errors', 'files', 'vision/resize', 'train', 'engine', 'lora'],
    runs: [
      'errors',
      'files',
      'file-contents',
      'random',
      'hub',
      'text',
      'vision',
      'models',
      'lora',
      'data',
      'latent',
      'tasks',
      'engine',
      'parallel',
      'train',
      'eval',
      'config',
    ],
    cli: '*',
    index: '*',
  },
};

const problems = [];

function* sources(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* sources(full);
    else if (entry.name.endsWith('.ts') && !entry.name.endsWith('.test.ts')) yield full;
  }
}

for (const [base, rules] of Object.entries(RULES)) {
  const source = path.join(root, base);
  for (const file of sources(source)) {
    const relative = path.relative(source, file);
    const owner = relative.split(path.sep)[0].replace(/\.ts$/, '');
    const allowed = rules[owner];
    if (allowed === undefined) {
      problems.push(`${base}/${relative}: the folder ${owner} has no rule in scripts/check-imports.mjs`);
      continue;
    }
    for (const [, target] of fs.readFileSync(file, 'utf8').matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)) {
      const to = path.relative(source, path.resolve(path.dirname(file), target)).replace(/\.ts$/, '');
      const first = to.split(path.sep)[0];
      if (to.startsWith('..')) {
        if (!/native\/setup\.mjs$/.test(target))
          problems.push(`${base}/${relative} imports ${target}, outside its package`);
      } else if (
        first !== owner &&
        allowed !== '*' &&
        !allowed.some((rule) => to === rule || to.startsWith(`${rule}${path.sep}`))
      ) {
        problems.push(`${base}/${relative} may not import ${to}`);
      }
    }
  }
}

// A model family is known to its own folder and the registry only.
const families = fs
  .readdirSync(path.join(root, 'packages/ivtlr/src/models'), { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && entry.name !== 'common');
for (const file of sources(path.join(root, 'packages/ivtlr/src/latent')))
  for (const { name } of families)
    if (fs.readFileSync(file, 'utf8').includes(name))
      problems.push(`${path.relative(root, file)} names the model family ${name}`);

for (const problem of problems) console.error(problem);
if (problems.length) process.exit(1);
console.log('imports: all one way');
