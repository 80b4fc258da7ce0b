// Damaged files for every reader: `npm run fuzz -- --minutes 60 [--count N] [--seed N] [--only images,pth] [--from N] [--save DIR] [--json]`.
// Each input must be accepted, or refused in one clear sentence, within 5 s (of work) and 1.5 GB, by a process that lives on and leaves nothing behind.
// The same seed gives the same inputs; number N of a kind alone comes back with `--only KIND --from N --count 1`. Needs `npm run build`.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Random } from '../packages/ivtlr/dist/random.js';
import { inputKinds } from './fuzz/inputs.mjs';
import { ReadingProcess } from './fuzz/reading-process.mjs';

const text = { type: 'string' };
const { values: flags } = parseArgs({
  options: { minutes: text, count: text, seed: text, only: text, from: text, save: text, json: { type: 'boolean' } },
});
const seed = Number(flags.seed ?? 1);
const from = Number(flags.from ?? 0);
const count = Number(flags.count ?? Number.POSITIVE_INFINITY);
const end = performance.now() + Number(flags.minutes ?? (flags.count ? Number.POSITIVE_INFINITY : 1)) * 60_000;

const work = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-fuzz-'));
const places = ['input', 'tmp', 'cwd'].map((name) => path.join(work, name));
for (const place of places) fs.mkdirSync(place);
const [input, tmp, cwd] = places;
const save = path.resolve(flags.save ?? fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-fuzz-defects-')));

const reading = new ReadingProcess(fileURLToPath(new URL('./fuzz/worker.mjs', import.meta.url)), { cwd, tmp });

function empty(folder) {
  for (const name of fs.readdirSync(folder)) fs.rmSync(path.join(folder, name), { recursive: true });
}

async function tryOne(kind, number, make) {
  for (const place of places) empty(place);
  const { files, links = {}, options = {} } = make(new Random(seed, number));
  for (const [name, bytes] of Object.entries(files)) fs.writeFileSync(path.join(input, name), bytes);
  for (const [name, target] of Object.entries(links)) fs.symlinkSync(target, path.join(input, name));
  let verdict = await reading.read({ kind, folder: input, options });
  const wanted = Object.keys({ ...files, ...links });
  const left = places.flatMap((place) => fs.readdirSync(place)).filter((name) => !wanted.includes(name));
  if (left.length > 0 && verdict.outcome !== 'defect')
    verdict = { outcome: 'defect', problem: 'left', message: `${left.join(', ')} (${verdict.message})` };
  if (verdict.outcome === 'defect') {
    const folder = path.join(save, `${kind}-${seed}-${number}`);
    fs.cpSync(input, folder, { recursive: true });
    fs.writeFileSync(`${folder}.json`, `${JSON.stringify({ kind, seed, number, options, ...verdict }, null, 2)}\n`);
    const [line] = verdict.message.split('\n');
    process.stderr.write(`${kind} ${number}: ${verdict.problem}: ${line.slice(0, 300)} (${folder})\n`);
  }
  return verdict;
}

const problems = ['crash', 'hang', 'unclear', 'memory', 'left'];
const table = [];
let stopped = false;
process.once('SIGINT', () => {
  stopped = true;
});
try {
  const kinds = await inputKinds(work);
  const only = flags.only?.split(',') ?? Object.keys(kinds);
  const unknown = only.filter((kind) => !kinds[kind]);
  if (unknown.length > 0) throw new Error(`no kind ${unknown.join(', ')}; there are ${Object.keys(kinds).join(', ')}`);
  for (const kind of only)
    table.push({
      kind,
      inputs: 0,
      accepted: 0,
      refused: 0,
      seconds: 0,
      ...Object.fromEntries(problems.map((p) => [p, 0])),
    });
  let told = performance.now();
  for (;;) {
    // Every kind gets the same time.
    const [row] = table.filter(({ inputs }) => inputs < count).sort((a, b) => a.seconds - b.seconds);
    if (!row || stopped || performance.now() > end) break;
    const start = performance.now();
    const { outcome, problem } = await tryOne(row.kind, from + row.inputs, kinds[row.kind]);
    row.inputs++;
    row[problem ?? outcome]++;
    row.seconds += (performance.now() - start) / 1000;
    if (performance.now() - told < 30_000) continue;
    told = performance.now();
    const sum = (key) => table.reduce((total, line) => total + line[key], 0);
    const defects = problems.reduce((total, key) => total + sum(key), 0);
    process.stderr.write(`${sum('inputs')} inputs in ${Math.round(sum('seconds'))} s, ${defects} defects\n`);
  }
} finally {
  reading.end();
  fs.rmSync(work, { recursive: true, force: true });
}

const found = table.some((row) => problems.some((problem) => row[problem] > 0));
const rounded = table.map((row) => ({ ...row, seconds: Math.round(row.seconds) }));
if (flags.json) console.log(JSON.stringify({ seed, from, table: rounded, save: found ? save : null }));
else {
  console.table(Object.fromEntries(rounded.map(({ kind, ...row }) => [kind, row])));
  if (found) console.log(`the inputs with defects are in ${save}`);
}
if (!found && !flags.save) fs.rmSync(save, { recursive: true });
process.exitCode = found ? 1 : 0;
