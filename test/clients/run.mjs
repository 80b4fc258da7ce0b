// Clients of others against `ivtlr serve` with the bundled model. After a build:
//   node test/clients/run.mjs [openai-python] [ai-sdk] [schemathesis]
// Without names all of them. Each is installed into a temporary folder (python3 -m venv, npm) that is removed at the end. Exit code 1 when one fails.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const VERSIONS = {
  python: ['openai==3.57.0'],
  node: ['ai@7.0.173', '@ai-sdk/openai-compatible@3.0.92'],
  schemathesis: ['schemathesis==4.32.5'],
};
const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const folder = mkdtempSync(path.join(tmpdir(), 'ivtlr-clients-'));
const CLIENTS = { 'openai-python': openaiPython, 'ai-sdk': aiSdk, schemathesis };

const names = process.argv.slice(2).length > 0 ? process.argv.slice(2) : Object.keys(CLIENTS);
const unknown = names.find((name) => !CLIENTS[name]);
if (unknown) {
  console.error(`clients are ${Object.keys(CLIENTS).join(', ')}, not ${unknown}`);
  process.exit(2);
}
const server = spawn(
  process.execPath,
  [here('../../packages/ivtlr/bin/ivtlr.mjs'), 'serve', '--port', '0', '--log-level', 'error'],
  { stdio: ['ignore', 'pipe', 'inherit'] },
);
process.on('exit', () => {
  server.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});
const url = await new Promise((resolve, reject) => {
  server.stdout.setEncoding('utf8').once('data', (text) => resolve(text.trim()));
  server.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
});
const failed = names.filter((name) => {
  console.log(`${name}:`);
  const ok = CLIENTS[name]();
  console.log(ok ? `${name}: well` : `${name}: FAILED`);
  return !ok;
});
if ((await fetch(`${url}/ready`)).status !== 200) failed.push('the server, which is not ready any more');
if (failed.length > 0) console.log(`FAILED: ${failed.join(', ')}`);
process.exit(failed.length > 0 ? 1 : 0);

/** @returns the folder with the programs of a new virtual environment */
function environment(name, packages) {
  const made = path.join(folder, name);
  execFileSync('python3', ['-m', 'venv', made], { stdio: 'inherit' });
  execFileSync(path.join(made, 'bin/pip'), ['install', '-q', ...packages], { stdio: ['ignore', 'inherit', 'inherit'] });
  return path.join(made, 'bin');
}

function runs(program, args, options = {}) {
  return spawnSync(program, args, { stdio: ['ignore', 'inherit', 'inherit'], ...options }).status === 0;
}

function openaiPython() {
  return runs(path.join(environment('openai', VERSIONS.python), 'python'), [here('openai_python.py'), url]);
}

function aiSdk() {
  const cwd = path.join(folder, 'ai-sdk');
  cpSync(here('ai-sdk.mjs'), path.join(cwd, 'ai-sdk.mjs'));
  writeFileSync(path.join(cwd, 'package.json'), '{"private":true,"type":"module"}');
  execFileSync('npm', ['install', '--silent', '--no-audit', '--no-fund', ...VERSIONS.node], { cwd, stdio: 'inherit' });
  return runs(process.execPath, ['ai-sdk.mjs', url], { cwd });
}

/** Requests made from the schema of /openapi.json, right ones and wrong ones: none is answered with a 5xx, or otherwise than the schema says. */
function schemathesis() {
  const program = path.join(environment('schemathesis', VERSIONS.schemathesis), 'schemathesis');
  // The schema cannot say all: a request that it allows may ask for what the model cannot do (400), and it names no methods beside its own.
  const checks = 'positive_data_acceptance,negative_data_rejection,unsupported_method';
  const args = ['run', `${url}/openapi.json`, '--exclude-checks', checks, '--max-examples', '50', '--seed', '1'];
  return runs(program, args, { cwd: folder });
}
