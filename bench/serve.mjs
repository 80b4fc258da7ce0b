// The server under load. After a build:
//   node bench/serve.mjs [--parts ours,serial,alone,bundled,peer] [--counts 1,4,8,16] [--tokens 64,256] [--folder DIR] [--threads 2] [--rounds 9] [--save]
// Qwen2-VL-2B's shape in bfloat16 with random weights (bench/serve-folder.mjs writes it into DIR, 4.4 GB), 280x280 pictures, 60 text tokens, three
// latent steps of 32 patches. `ours`: so many streamed requests at once to `ivtlr serve`; `serial`: one after the other through the engine of
// `ivtlr infer`; `alone`: single requests to the server and to that engine in turn, and what the server adds (as root: it reads the scheduler's
// record); `peer`: a plain FastAPI over transformers' generate(), which takes no latent steps (PYTHON with torch, transformers, pillow, fastapi,
// uvicorn); `bundled`: 64 clients of the bundled model. All parts take about 15 minutes on two cores; --save merges what was run into
// bench/results/serve.json, so parts can be run one by one.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import { parseArgs } from 'node:util';
import { demand, makeCase } from './inference-shapes.mjs';
import { circumstances, fail, here, round, run, runJson } from './run.mjs';
import { cannotFollow, childrenOf, follow, threadsOf, waits } from './scheduler.mjs';
import { chat, request, serverCpu } from './serve-client.mjs';

const { values } = parseArgs({
  options: {
    parts: { type: 'string', default: 'ours,serial,alone,bundled,peer' },
    counts: { type: 'string', default: '1,4,8,16' },
    tokens: { type: 'string', default: '64,256' },
    folder: { type: 'string', default: path.join(os.tmpdir(), 'ivtlr-serve-2b') },
    threads: { type: 'string', default: String(Math.min(2, os.availableParallelism())) },
    rounds: { type: 'string', default: '9' },
    save: { type: 'boolean', default: false },
  },
});
const PARTS = { ours, serial, alone, peer, bundled };
const parts = values.parts.split(',');
for (const part of parts) if (!PARTS[part]) fail(`--parts are ${Object.keys(PARTS).join(', ')}, not ${part}`);
const problem = parts.includes('alone') ? cannotFollow() : null;
if (problem) fail(`${problem}; the other --parts do without`);
const counts = values.counts.split(',').map(Number);
const lengths = values.tokens.split(',').map(Number);
const SERIAL_REQUESTS = 2;
const CLIENTS = 64;
const children = new Set();
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});

const before = circumstances(Number(values.threads));
if (parts.some((part) => part !== 'bundled') && !fs.existsSync(path.join(values.folder, 'model.safetensors')))
  run(process.execPath, [here('serve-folder.mjs'), values.folder], 'the model');
const file = here('results/serve.json');
const result = fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, 'utf8')) : {};
for (const part of parts) {
  console.error(`running ${part} ..`);
  const command = `node bench/serve.mjs --parts ${part} --counts ${values.counts} --tokens ${values.tokens} --threads ${values.threads}`;
  const measured = await PARTS[part]();
  const old = result[part] ?? {};
  result[part] = { command, ...before, ...measured, rows: { ...old.rows, ...measured.rows } };
  result.comparison = compare(result);
  if (values.save) fs.writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`);
}
console.log(JSON.stringify(result, null, 2));
process.exit(0);

async function start(command, args, ready) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  children.add(child);
  const url = await ready(child);
  const stop = () =>
    new Promise((resolve) => {
      child.once('exit', resolve);
      child.kill('SIGTERM');
    });
  return { url, stop, pid: child.pid };
}

function startOurs(args) {
  const program = here('../packages/ivtlr/bin/ivtlr.mjs');
  const all = [program, 'serve', '--port', '0', '--threads', values.threads, '--log-level', 'warn', ...args];
  return start(
    process.execPath,
    all,
    (child) =>
      new Promise((resolve, reject) => {
        child.stdout.once('data', (data) => resolve(String(data).trim()));
        child.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
      }),
  );
}

function mean(numbers) {
  return numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
}

async function ours() {
  const { url, stop } = await startOurs(['--model', values.folder]);
  await chat(url, await request(1000, Math.max(...lengths)));
  const rows = {};
  let seed = 0;
  for (const tokens of lengths)
    for (const count of counts) {
      const asked = await Promise.all(Array.from({ length: count }, () => request(seed++, tokens)));
      const started = performance.now();
      const answers = await Promise.all(asked.map((one) => chat(url, one)));
      const wall = (performance.now() - started) / 1000;
      const written = answers.reduce((sum, each) => sum + each.tokens, 0);
      const single = answers[0];
      rows[`${count} at once, ${tokens} tokens`] = {
        ...{ seconds: round(wall), tokens: written, tokensPerSecond: round(written / wall) },
        ...{ requestsPerMinute: round((60 * count) / wall), promptTokens: single.prompt },
        firstTokenSeconds: round(mean(answers.map(({ first }) => first))),
        secondsPerToken: round(mean(answers.map(({ seconds, first, tokens }) => (seconds - first) / (tokens - 1)))),
        ...(count === 1 && { phases: Object.fromEntries(Object.entries(single.told).map(([k, v]) => [k, round(v)])) }),
      };
      console.error(`${count} at once, ${tokens} tokens: ${round(written / wall)} tokens/s`);
    }
  await stop();
  return { rows };
}

/** The engine of `ivtlr infer` in a process of its own. */
function startSerial(env = {}) {
  const child = spawn(process.execPath, [here('serve-serial.mjs'), values.folder, values.threads], {
    ...{ stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, ...env } },
  });
  children.add(child);
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (request) => {
    child.stdin.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await lines.next();
    if (done) fail('the engine ended');
    return JSON.parse(value);
  };
  return { ask, stop: () => child.kill() };
}

async function serial() {
  const { ask, stop } = startSerial();
  await ask(await request(500, 4));
  const answers = [];
  for (const tokens of lengths)
    for (let i = 0; i < SERIAL_REQUESTS; i++) answers.push(await ask(await request(601 + answers.length, tokens)));
  stop();
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ivtlr-bench-'));
  const file = path.join(folder, 'shape.json');
  fs.writeFileSync(file, JSON.stringify(makeCase('qwen2-vl', '2b', Number(values.threads))));
  const machine = runJson(process.execPath, [here('inference-ours.mjs'), file, '1', '--floor'], 'the machine');
  fs.rmSync(folder, { recursive: true });
  return { rows: rowsOf(answers), machine: rates(machine) };
}

/**
 * Single requests to the server and to the engine in turn, so that both meet the same machine. What the server adds is the time outside the engine's
 * passes and, within them, the time that the engine's threads wait for a core that the server has.
 */
async function alone() {
  const { url, stop, pid: server } = await startOurs(['--model', values.folder]);
  const engine = startSerial({ THP_MEM_ALLOC_ENABLE: '1' }); // large pages for the weights, as the server's engine has them
  await chat(url, await request(1000, Math.max(...lengths)));
  await engine.ask(await request(1000, Math.max(...lengths)));
  const rows = {};
  const ofServer = async (asked, streamed) => {
    const before = await serverCpu(url);
    const followed = follow();
    const { seconds, told } = await chat(url, asked, streamed);
    const working = new Set(childrenOf(server).flatMap(threadsOf));
    const { waited, ran } = waits(followed(), working, new Set(threadsOf(server)));
    const { image, prefill, latents, decode } = told;
    const cpu = (await serverCpu(url)) - before;
    return { seconds, outside: seconds - image - prefill - latents - decode, cpu, waited, ran };
  };
  const ways = {
    whole: (asked) => ofServer(asked, false),
    streamed: (asked) => ofServer(asked, true),
    engine: (asked) => engine.ask(asked),
  };
  const names = Object.keys(ways);
  for (const tokens of lengths) {
    const rounds = [];
    for (let i = 0; i < Number(values.rounds); i++) {
      // Another picture for each, since the server keeps what it has read, and another order in each round.
      const one = {};
      for (const j of names.keys()) {
        const name = names[(i + j) % names.length];
        one[name] = await ways[name](await request(2000 + names.length * i + j, tokens));
      }
      rounds.push(one);
    }
    const quartiles = (of) => [0.25, 0.5, 0.75].map((share) => round(quantile(rounds.map(of), share)));
    const middle = (of) => quartiles(of)[1];
    const row = { rounds: rounds.length };
    for (const name of names) {
      row[name] = {
        seconds: middle((each) => each[name].seconds),
        // What no pass of the engine took: the work between passes, and at the server HTTP, JSON and messages between the processes.
        outsideMilliseconds: middle((each) => 1000 * each[name].outside),
        ...(name !== 'engine' && {
          outsideAdded: quartiles((each) => 1000 * (each[name].outside - each.engine.outside)),
          // Threads of the engine had no core while the server's had one; some of them only spun.
          waitedMilliseconds: quartiles((each) => 1000 * each[name].waited),
          addedAtMost: quartiles((each) => 1000 * (each[name].outside - each.engine.outside + each[name].waited)),
          // Of the server's process, asking for this number included and without it.
          serverCpuMilliseconds: middle((each) => 1000 * each[name].cpu),
          ranMilliseconds: middle((each) => 1000 * each[name].ran),
          // What the clock says, with all that passes differ by from process to process and from minute to minute.
          longerMilliseconds: quartiles((each) => 1000 * (each[name].seconds - each.engine.seconds)),
        }),
      };
    }
    const all = `${tokens} tokens, ${values.threads} ${values.threads === '1' ? 'thread' : 'threads'}`;
    rows[all] = row;
    console.error(`alone, ${all}: ${row.whole.addedAtMost[1]} and ${row.streamed.addedAtMost[1]} ms at most`);
  }
  engine.stop();
  await stop();
  return { rows };
}

function quantile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const at = share * (sorted.length - 1);
  return (sorted[Math.floor(at)] + sorted[Math.ceil(at)]) / 2;
}

function rowsOf(answers) {
  return Object.fromEntries(
    lengths.map((tokens, i) => {
      const own = answers.slice(i * SERIAL_REQUESTS, (i + 1) * SERIAL_REQUESTS);
      const seconds = own.reduce((sum, each) => sum + each.seconds, 0);
      const written = own.reduce((sum, each) => sum + each.tokens, 0);
      const row = { seconds: round(seconds / own.length), tokensPerSecond: round(written / seconds) };
      const first = own[0].first == null ? {} : { firstTokenSeconds: round(mean(own.map((each) => each.first))) };
      return [`${tokens} tokens`, { ...row, ...first }];
    }),
  );
}

function rates({ products, bandwidth }) {
  const most = (of) => round(Math.max(...Object.values(of)));
  return { gigaflopsPerSecond: most(products), gigabytesPerSecond: most(bandwidth) };
}

async function peer() {
  const python = process.env.PYTHON ?? 'python3';
  const port = 20000 + (process.pid % 20000);
  const args = [here('serve_peer.py'), values.folder, String(port), values.threads];
  const { url, stop } = await start(python, args, async (child) => {
    const url = `http://127.0.0.1:${port}`;
    for (;;) {
      if (child.exitCode !== null) fail('the peer ended');
      if (await fetch(`${url}/ready`).catch(() => null)) return url;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  });
  const ask = async (seed, tokens) => {
    const { image, question } = await request(seed, tokens);
    const started = performance.now();
    const body = JSON.stringify({ image, question, max_tokens: tokens });
    const response = await fetch(`${url}/answer`, {
      ...{ method: 'POST', headers: { 'content-type': 'application/json' }, body },
    });
    if (!response.ok) fail(`the peer answered ${response.status}: ${await response.text()}`);
    return { seconds: (performance.now() - started) / 1000, ...(await response.json()) };
  };
  await ask(700, 4);
  const answers = [];
  for (const tokens of lengths)
    for (let i = 0; i < SERIAL_REQUESTS; i++) answers.push(await ask(800 + answers.length, tokens));
  await stop();
  return { rows: rowsOf(answers) };
}

async function bundled() {
  const { url, stop } = await startOurs(['--max-queue', '256']);
  const puzzles = await Promise.all(
    Array.from({ length: 32 }, async (_, seed) => (await fetch(`${url}/api/puzzle?seed=${seed}`)).json()),
  );
  const ask = async (i) => {
    const { image, question, choices } = puzzles[i % puzzles.length];
    const content = [
      { type: 'image_url', image_url: { url: image } },
      { type: 'text', text: question },
    ];
    const started = performance.now();
    const response = await fetch(`${url}/v1/chat/completions`, {
      ...{ method: 'POST', headers: { 'content-type': 'application/json' } },
      body: JSON.stringify({ messages: [{ role: 'user', content }], ivtlr: { choices } }),
    });
    if (!response.ok) fail(`${response.status}: ${await response.text()}`);
    await response.json();
    return performance.now() - started;
  };
  const clients = async (requests) => {
    const times = [];
    let next = 0;
    const client = async () => {
      while (next < requests) times.push(await ask(next++));
    };
    await Promise.all(Array.from({ length: CLIENTS }, client));
    return times.sort((a, b) => a - b);
  };
  await clients(2 * CLIENTS);
  const requests = 20 * CLIENTS;
  const cpuBefore = await serverCpu(url);
  const started = performance.now();
  const times = await clients(requests);
  const seconds = (performance.now() - started) / 1000;
  const used = (await serverCpu(url)) - cpuBefore;
  await stop();
  const at = (share) => round(times[Math.floor(share * (times.length - 1))]);
  const row = {
    requests,
    requestsPerSecond: round(requests / seconds),
    p50Milliseconds: at(0.5),
    p99Milliseconds: at(0.99),
  };
  return {
    rows: { [`${CLIENTS} clients`]: { ...row, serverCpuMillisecondsPerRequest: round((1000 * used) / requests) } },
  };
}

/** Throughput against one after the other and the peer, and wall time against the floor of the same mix. */
function compare({ ours, serial, peer }) {
  const found = {};
  for (const [name, row] of Object.entries(ours?.rows ?? {})) {
    const [count, tokens] = name.match(/\d+/g).map(Number);
    const times = {};
    const alone = serial?.rows[`${tokens} tokens`];
    const other = peer?.rows[`${tokens} tokens`];
    if (alone) times.timesOneAfterTheOther = round(row.tokensPerSecond / alone.tokensPerSecond);
    if (other) times.timesPeer = round(row.tokensPerSecond / other.tokensPerSecond);
    if (serial?.machine) {
      const testCase = { ...makeCase('qwen2-vl', '2b', 2), newTokens: tokens };
      const needs = demand({ ...testCase, prompt: new Array(row.promptTokens).fill(0) });
      const gemm = serial.machine.gigaflopsPerSecond * 1e9;
      const memory = needs.decodeBytes / (serial.machine.gigabytesPerSecond * 1e9);
      // A pass reads the weights once for all rows; each weight of 2 bytes is a product and a sum a row.
      const floor =
        (count * (needs.prefillFlops + needs.latentFlops)) / gemm +
        Math.max(memory, (count * needs.decodeBytes) / gemm);
      times.timesFloor = round(row.seconds / floor);
    }
    found[name] = times;
  }
  return found;
}
