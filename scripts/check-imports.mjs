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
    io: ['core', 'ops.gen', 'nn', 'cuda'],
    optim: ['core', 'ops.gen', 'nn'],
    cuda: ['core'],
    dist: ['core'],
    index: ['core', 'nn', 'io', 'optim', 'cuda', 'dist'],
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
    study: [
      'errors',
      'files',
      'compiled-module',
      'hub',
      'data',
      'latent',
      'tasks',
      'launch',
      'engine',
      'pool',
      'train/checkpoint',
      'eval',
      'trace',
      'config',
      'runs',
    ],
    server: [
      'data',
      'errors',
      'files',
      'compiled-module',
      'text',
      'vision',
      'latent',
      'tasks',
      'engine',
      'pool',
      'runs/run-lock',
      'train/checkpoint-names',
    ],
    cli: '*',
    index: '*',
  },
};

/** What the browser app may take from the packages: files that import nothing themselves, so that nothing of Node comes along. */
const SHARED_WITH_APP = [
  'packages/ivtlr/src/server/protocol.ts',
  'packages/ivtlr/src/trace/heat-colours.ts',
  'packages/ivtlr/src/trace/step-panel.ts',
  'packages/ivtlr/src/vision/token-views.ts',
];
const APP_RULES = {
  main: '*',
  app: '*',
  api: ['shared'],
  state: ['shared', 'api'],
  draw: ['shared', 'state'],
  parts: ['shared', 'api', 'state', 'draw'],
  pages: ['shared', 'state', 'draw', 'parts'],
};

const problems = [];

function* sources(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* sources(full);
    else if (/\.tsx?$/.test(entry.name) && !entry.name.endsWith('.test.ts')) yield full;
  }
}

/** Relative imports. */
function importsOf(file) {
  const found = fs.readFileSync(file, 'utf8').matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g);
  return [...found].map(([, target]) => target);
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
    for (const target of importsOf(file)) {
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

const app = path.join(root, 'apps/web/src');
for (const file of sources(app)) {
  const relative = path.relative(app, file);
  const allowed = APP_RULES[relative.split(path.sep)[0].replace(/\.tsx?$/, '')];
  if (allowed === undefined) problems.push(`apps/web/src/${relative} has no rule in scripts/check-imports.mjs`);
  else
    for (const target of importsOf(file)) {
      const to = path.resolve(path.dirname(file), target);
      const shared = SHARED_WITH_APP.includes(path.relative(root, to));
      const first = shared ? 'shared' : path.relative(app, to).split(path.sep)[0];
      const own = first === relative.split(path.sep)[0];
      if (first === '..' || !(own || allowed === '*' || allowed.includes(first)))
        problems.push(`apps/web/src/${relative} may not import ${target}`);
    }
}
for (const file of SHARED_WITH_APP)
  for (const target of importsOf(path.join(root, file)))
    if (!SHARED_WITH_APP.includes(path.join(path.dirname(file), target)))
      problems.push(`${file} goes into the browser app, so it may not import ${target}`);

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
