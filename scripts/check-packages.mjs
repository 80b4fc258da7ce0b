// Packs both packages, installs them into an empty project, and uses them there as a user would: first without libtorch, then set up. The registry
// is asked for what npm's cache lacks.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { docExamples } from './doc-examples.mjs';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const work = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-packages-'));
const project = path.join(work, 'project');
const PROGRAM = 'node_modules/.bin/ivtlr';
const MODEL = 'node_modules/ivtlr/models/dominoes';
const started = performance.now();

function step(name, action) {
  const value = action();
  console.log(`packages: ${name} (${((performance.now() - started) / 1000).toFixed(0)} s)`);
  return value;
}

/** Runs a program to its end in the project. */
function run(command, args, { code = 0, env = {}, cwd = project } = {}) {
  const result = spawnSync(command, args, { cwd, encoding: 'utf8', env: { ...process.env, ...env } });
  const said = `${result.stdout}${result.stderr}`;
  assert.equal(result.status, code, `${command} ${args.join(' ')} ended with ${result.status}:\n${said}`);
  return { ...result, said };
}

/** Every file path among an export's conditions. */
function targets(exported) {
  return typeof exported === 'string' ? [exported] : Object.values(exported).flatMap(targets);
}

function checkContents(name) {
  const folder = path.join(project, 'node_modules', name);
  const about = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
  const files = fs.readdirSync(folder, { recursive: true });
  for (const needed of ['README.md', 'LICENSE']) assert(files.includes(needed), `${name} lacks ${needed}`);
  if (name === 'ivtlr') assert(files.includes('app/index.html'), 'ivtlr lacks the built app');
  for (const field of ['description', 'license', 'repository', 'engines', 'os', 'cpu'])
    assert(about[field], `${name}: package.json lacks ${field}`);
  assert(about.exports['./package.json']);
  for (const [entry, exported] of Object.entries(about.exports)) {
    for (const target of targets(exported))
      assert(
        files.includes(path.normalize(target)),
        `${name}: export ${entry} points to ${target}, which is not packed`,
      );
    if (entry !== './package.json') assert(exported.types, `${name}: export ${entry} has no types`);
  }
  for (const file of files) {
    assert(!/\.test\.|\.map$|tsbuildinfo|^src/.test(file), `${name} packs ${file}`);
    const source = path.join(root, about.repository.directory, file.replace(/^dist/, 'src').replace(/\.js$/, '.ts'));
    if (/^dist.*\.js$/.test(file))
      assert(fs.existsSync(source), `${name} packs ${file}, which has no source: remove dist/ and build again`);
  }
}

function checkWithoutLibtorch() {
  const env = { IVTLR_CACHE: path.join(work, 'empty-cache'), IVTLR_LIBTORCH: '' };
  const ivtlr = (args, code = 0) => run(PROGRAM, args, { code, env }).said;
  assert.match(run('npx', ['ivtlr', '--help'], { env }).said, /setup \[options\] +find or fetch libtorch/);
  ivtlr(['data', 'make', 'dominoes', '--rows', '12', '--split', 'test', '--out', 'data']);
  assert.match(ivtlr(['data', 'stats', 'dominoes', '--data', 'data', '--model', MODEL]), /12 samples \(tokens\)/);
  ivtlr(['data', 'inspect', 'dominoes', '--data', 'data', '--split', 'test', '--model', MODEL, '--png', 'image.png']);
  const remedy = /libtorch was not found: run `npx ivtlr setup`/;
  assert.match(ivtlr(['doctor'], 1), remedy);
  assert.match(ivtlr(['infer', '--model', MODEL, '--image', 'image.png', '--question', 'blue'], 2), remedy);
  const library = `
    import { bundledModel, findTask, openModelFolder, streamSamples } from 'ivtlr';
    for await (const { question } of streamSamples('data', findTask('dominoes'), { limit: 1 })) console.log(question);
    openModelFolder(bundledModel('dominoes'));`;
  const { said } = run('node', ['--input-type=module', '-e', library], { code: 1, env });
  assert.match(said, /Start at .*SetupError: libtorch was not found: run `npx ivtlr setup`/s);
}

function checkSetUp() {
  const ivtlr = (args) => run(PROGRAM, args).stdout;
  assert.match(ivtlr(['setup']), /^ready: libtorch 2\./);
  assert.match(ivtlr(['doctor']), /everything needed works/);
  assert.equal(JSON.parse(ivtlr(['eval', '--model', MODEL, '--data', 'data', '--json'])).results[0].samples, 12);
  const { traces } = JSON.parse(ivtlr(['demo', '--rows', '8', '--traces', '1', '--json']));
  assert(fs.existsSync(path.join(project, traces[0].image)));
}

/** The documents' examples compile in the project with its strictest settings. */
function checkTypes() {
  const examples = docExamples();
  assert(examples.length > 0);
  examples.forEach(({ code }, index) => {
    fs.writeFileSync(path.join(project, `example-${index}.ts`), code);
  });
  const everyExport =
    "export * as torch from '@ivtlr/torch';\nexport * as ops from '@ivtlr/torch/ops';\nexport * as setup from '@ivtlr/torch/setup';\n" +
    "export * as ivtlr from 'ivtlr';\nexport { default as about } from 'ivtlr/package.json' with { type: 'json' };\n" +
    "export { default as aboutTorch } from '@ivtlr/torch/package.json' with { type: 'json' };\n";
  fs.writeFileSync(path.join(project, 'every-export.ts'), everyExport);
  const compilerOptions = {
    ...{ module: 'nodenext', moduleResolution: 'nodenext', target: 'es2022', lib: ['es2023', 'esnext.disposable'] },
    ...{ strict: true, noEmit: true, types: ['node'], typeRoots: [path.join(root, 'node_modules/@types')] },
    skipLibCheck: false, // the declarations of dependencies that ours name count, too
  };
  fs.writeFileSync(path.join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.ts'] }));
  run(path.join(root, 'node_modules/.bin/tsc'), ['-p', '.']);
}

try {
  fs.mkdirSync(project);
  fs.writeFileSync(path.join(project, 'package.json'), JSON.stringify({ private: true, type: 'module' }));
  const packages = ['packages/torch', 'packages/ivtlr'].flatMap((workspace) => ['-w', workspace]);
  const tarballs = step('packed', () => {
    run('npm', ['pack', '-s', ...packages, '--pack-destination', work], { cwd: root });
    return fs.readdirSync(work).filter((name) => name.endsWith('.tgz'));
  });
  assert.equal(tarballs.length, 2);
  step('installed', () =>
    run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', ...tarballs.map((name) => `../${name}`)]),
  );
  step('hold what they should', () => ['ivtlr', '@ivtlr/torch'].forEach(checkContents));
  step('work without libtorch as far as they should', checkWithoutLibtorch);
  step('work when set up', checkSetUp);
  step('their types and the examples of the documents compile', checkTypes);
} finally {
  fs.rmSync(work, { recursive: true, force: true });
}
