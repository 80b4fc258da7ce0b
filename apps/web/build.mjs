// Builds the app into packages/ivtlr/app, which `ivtlr serve` serves. Returns at once when nothing that it is made of has changed.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(fileURLToPath(import.meta.url));
const stamp = path.join(root, '../../packages/ivtlr/app/.built');
const INPUTS = [
  ...['src', 'public', 'index.html', 'vite.config.ts', 'tsconfig.json', 'package.json', 'build.mjs'],
  ...['trace/heat-colours.ts', 'trace/step-panel.ts', 'vision/token-views.ts'].map(
    (name) => `../../packages/ivtlr/src/${name}`,
  ),
  '../../tsconfig.base.json',
];

function* filesIn(name) {
  const full = path.join(root, name);
  if (!fs.statSync(full).isDirectory()) yield name;
  else for (const entry of fs.readdirSync(full).sort()) yield* filesIn(path.join(name, entry));
}

const hash = createHash('sha256');
for (const input of INPUTS)
  for (const file of filesIn(input)) hash.update(`${file}\0`).update(fs.readFileSync(path.join(root, file)));
const state = hash.digest('hex');

if (!fs.existsSync(stamp) || fs.readFileSync(stamp, 'utf8') !== state) {
  try {
    for (const needed of ['vite', 'preact', 'uplot']) import.meta.resolve(needed);
  } catch (error) {
    console.error(`apps/web: ${error.message}: run \`npm ci\` first`);
    process.exit(1);
  }
  const { build } = await import('vite');
  await build({ root, logLevel: 'warn' });
  fs.writeFileSync(stamp, state);
}
