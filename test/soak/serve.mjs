// Soaks a server of the bundled model, for ten minutes or until so many requests were made:
//   node test/soak/serve.mjs [--seconds 600] [--clients 64] [--kills 20] [--slow 500] [--pictures 24]
//   node test/soak/serve.mjs --requests 10000 --kills 0 --slow 0 --pictures 500
// Clients ask at random, whole or streamed, half of them break off at random, and one request in twelve is hostile (bombs, broken
// pictures, wrong fields). The engine is killed (SIGKILL and SIGSTOP in turn) now and then; slow clients send and read a few bytes at a time.
// In the end it says what came of every request, and memory and live tensors after warm-up and at the end. Exit code 1 when a request had
// neither answer nor clear error, an answer was wrong, something stayed behind, or the server did not end well.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ask, askSlowly, hostileBodies } from './clients.mjs';

const number = (value) => ({ type: 'string', default: String(value) });
const { values } = parseArgs({
  options: {
    ...{ seconds: number(600), requests: number(Number.POSITIVE_INFINITY), clients: number(64) },
    ...{ kills: number(20), slow: number(500), pictures: number(24), seed: number(1) },
  },
});
const [seconds, requests, clients, kills, slow, pictures] = [
  'seconds',
  'requests',
  'clients',
  'kills',
  'slow',
  'pictures',
].map((name) => Number(values[name]));

let state = Number(values.seed) || 1;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};
const below = (n) => Math.floor(random() * n);

const program = fileURLToPath(new URL('../../packages/ivtlr/bin/ivtlr.mjs', import.meta.url));
const flags = ['--engine-timeout', '5', '--cache-mb', '64', '--max-queue', '1000', '--log-level', 'silent'];
const server = spawn(process.execPath, [program, 'serve', '--port', '0', ...flags], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
process.on('exit', () => server.kill('SIGKILL'));
const url = await new Promise((resolve, reject) => {
  server.stdout.setEncoding('utf8').once('data', (text) => resolve(text.trim()));
  server.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
});
const engine = () =>
  Number(readFileSync(`/proc/${server.pid}/task/${server.pid}/children`, 'utf8').trim().split(' ')[0]);

const metric = async (name) => {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(text.match(new RegExp(`^ivtlr:${name} (.*)$`, 'm'))[1]);
};
/** When nothing runs or waits any more, and a heartbeat has told the last numbers. */
async function memory() {
  while ((await metric('num_requests_running')) + (await metric('num_requests_waiting')) > 0) await pause(50);
  await pause(1500);
  return {
    engine: await metric('engine_resident_bytes'),
    server: await metric('server_resident_bytes'),
    tensors: await metric('engine_live_tensors'),
  };
}

const bodies = [];
for (let seed = 0; seed < pictures; seed++) {
  const { image, question, choices } = await (await fetch(`${url}/api/puzzle?seed=${seed}`)).json();
  const content = [
    { type: 'image_url', image_url: { url: image } },
    { type: 'text', text: question },
  ];
  const ivtlr = {
    choices,
    trace: ['none', 'picks', 'full'][seed % 3],
    ...(seed % 4 === 3 && { ablation: 'zero-latents' }),
  };
  bodies.push({ messages: [{ role: 'user', content }], max_tokens: 5 + (seed % 7) * 4, ivtlr });
}
const expected = [];
for (const body of bodies) expected.push((await ask(url, body)).text);

const hostile = Object.entries(hostileBodies(bodies[0]));
const refusals = [];
for (const [name, body] of hostile) {
  refusals.push({ name, ...(await ask(url, body)) });
}

const fresh = () => ({ answered: 0, hostile: 0, brokenOff: 0, engineDied: 0, otherErrors: 0, wrong: 0, unclear: 0 });
let counts = fresh();
const unclear = (error) => {
  counts.unclear++;
  console.error(error);
};
function take({ status, text, code }, want, refusal) {
  if (code === 'engine_restarting') counts.engineDied++;
  else if (refusal && status === refusal.status && code === refusal.code && text === refusal.text) counts.hostile++;
  else if (!refusal && text === want) counts.answered++;
  else if (code && (status === 408 || status === 429)) {
    // Clear, but a sign that the machine stood still or the queue ran full.
    counts.otherErrors++;
    console.error('refused:', status, code);
  } else {
    counts.wrong++;
    console.error('wrong:', { status, text, code }, 'instead of', refusal ?? want);
  }
}

async function client(goOn) {
  while (goOn()) {
    const which = below(bodies.length);
    const bad = random() < 1 / 12 ? below(hostile.length) : null;
    const control = new AbortController();
    if (random() < 0.5) setTimeout(() => control.abort(), below(1500));
    const options = { stream: random() < 0.5, signal: control.signal };
    try {
      take(await ask(url, bad === null ? bodies[which] : hostile[bad][1], options), expected[which], refusals[bad]);
    } catch (error) {
      if (control.signal.aborted) counts.brokenOff++;
      else unclear(error);
    }
  }
}
function run(span, most) {
  const until = performance.now() + span;
  let left = most;
  return Promise.all(Array.from({ length: clients }, () => client(() => performance.now() < until && left-- > 0)));
}

await run(Math.min(60, seconds / 4) * 1000, requests / 5);
const before = await memory();
counts = fresh();
const started = performance.now();
const span = requests < Number.POSITIVE_INFINITY ? Number.POSITIVE_INFINITY : seconds * 1000;
const slowCounts = { answered: 0, engineDied: 0, other: 0 };
const slowly = Array.from({ length: slow }, async () => {
  const which = below(bodies.length);
  try {
    const { text, code } = await askSlowly(url, bodies[which]);
    if (text === expected[which]) slowCounts.answered++;
    else if (code === 'engine_restarting') slowCounts.engineDied++;
    else throw new Error(`a slow client got ${JSON.stringify({ text, code })} instead of ${expected[which]}`);
  } catch (error) {
    slowCounts.other++;
    console.error(error);
  }
});
const loading = run(span, requests);
for (let killed = 0; killed < kills; killed++) {
  const due = started + ((killed + 0.5) * seconds * 1000) / kills;
  await pause(Math.max(0, due - performance.now()));
  // Between two processes there is none to kill.
  while (!engine()) await pause(20);
  process.kill(engine(), killed % 2 ? 'SIGSTOP' : 'SIGKILL');
}
await loading;
await Promise.all(slowly);
const took = (performance.now() - started) / 1000;
const after = await memory();
const restarts = await metric('engine_restarts');

const last = engine();
const ended = new Promise((resolve) => server.once('exit', resolve));
server.kill('SIGTERM');
const code = await ended;
const orphan = existsSync(`/proc/${last}`);

const mebibytes = ({ engine, server, tensors }) =>
  `engine ${(engine / 2 ** 20).toFixed(0)} MiB, server ${(server / 2 ** 20).toFixed(0)} MiB, ${tensors} tensors`;
const total = Object.values(counts).reduce((sum, one) => sum + one, 0);
console.log(`${total} requests in ${took.toFixed(0)} s: ${JSON.stringify({ ...counts, restarts })}`);
if (slow > 0) console.log(`${slow} slow clients: ${JSON.stringify(slowCounts)}`);
console.log(
  `hostile requests: ${refusals.map(({ name, status, code, text }) => `${name}: ${status} ${code ?? text}`).join('; ')}`,
);
console.log(`after warm-up: ${mebibytes(before)}`);
console.log(`at the end:    ${mebibytes(after)}; the server ended with ${code}`);
const faults = {
  'a wrong answer': counts.wrong > 0,
  'a request without a clear end': counts.unclear + slowCounts.other > 0,
  'a hostile request that broke something': refusals.some(({ status }) => status >= 500),
  'an engine that was not started again': restarts < kills,
  'more memory of the server': after.server > before.server * 1.25,
  'more memory of the engine': after.engine > before.engine * 1.25,
  'more tensors': after.tensors > before.tensors + 8,
  'an end that is none': code !== 0 || orphan,
};
const found = Object.keys(faults).filter((name) => faults[name]);
console.log(found.length ? `FAULTS: ${found.join(', ')}` : 'no faults');
if (found.length) process.exitCode = 1;
