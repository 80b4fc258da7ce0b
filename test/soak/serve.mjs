// Soaks a server of the bundled model: `node test/soak/serve.mjs [--seconds 600] [--clients 64] [--kills 20] [--slow 0]`.
// Clients ask at random, whole or streamed, and half of them break off at random; the engine is killed (SIGKILL and SIGSTOP in turn) now and then;
// slow clients read a byte at a time. In the end it says what came of every request, and memory and live tensors after warm-up and at the end.
// Exit code 1 when a request had neither answer nor clear error, an answer was wrong, or something stayed behind.
import { spawn } from 'node:child_process';
import { request } from 'node:http';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const number = (value) => ({ type: 'string', default: String(value) });
const { values } = parseArgs({
  options: { seconds: number(600), clients: number(64), kills: number(20), slow: number(0), seed: number(1) },
});
const [seconds, clients, kills, slow] = ['seconds', 'clients', 'kills', 'slow'].map((name) => Number(values[name]));

let state = Number(values.seed) || 1;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};
const below = (n) => Math.floor(random() * n);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const program = fileURLToPath(new URL('../../packages/ivtlr/bin/ivtlr.mjs', import.meta.url));
const args = [program, 'serve', '--port', '0', '--engine-timeout', '5', '--log-level', 'warn', '--max-queue', '1000'];
const server = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
process.on('exit', () => server.kill('SIGKILL'));
const url = await new Promise((resolve, reject) => {
  server.stdout.setEncoding('utf8').once('data', (text) => resolve(text.trim()));
  server.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
});

const metric = async (name) => {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(text.match(new RegExp(`^ivtlr:${name} (.*)$`, 'm'))[1]);
};
const memory = async () => ({
  engine: await metric('engine_resident_bytes'),
  server: await metric('server_resident_bytes'),
  tensors: await metric('engine_live_tensors'),
});
const quiet = async () => {
  while ((await metric('num_requests_running')) + (await metric('num_requests_waiting')) > 0) await pause(50);
  await pause(1500); // a heartbeat tells the last numbers
};

const bodies = [];
for (let seed = 0; seed < 24; seed++) {
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

/** Text of an answer, or the code of the error that came in its place. */
async function ask(body, stream, signal) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, stream }),
    signal,
  });
  if (!stream || response.status !== 200) {
    const answer = await response.json();
    if (response.status === 200) return { text: answer.choices[0].message.content };
    if (typeof answer.error?.code !== 'string')
      throw new Error(`an error that says nothing: ${JSON.stringify(answer)}`);
    return { code: answer.error.code };
  }
  const events = (await response.text())
    .trimEnd()
    .split('\n\n')
    .map((line) => line.slice(6));
  if (events.at(-1) !== '[DONE]') return { code: JSON.parse(events.at(-1)).error.code };
  return {
    text: events
      .slice(0, -1)
      .map((event) => JSON.parse(event).choices[0]?.delta.content ?? '')
      .join(''),
  };
}

/** Sends its request and reads the answer a little at a time. */
function askSlowly(body) {
  return new Promise((resolve) => {
    const text = JSON.stringify({ ...body, stream: true });
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    const sent = request(`${url}/v1/chat/completions`, { method: 'POST', headers, agent: false }, async (response) => {
      let size = 0;
      for (;;) {
        const chunk = response.read(64);
        if (chunk) size += chunk.length;
        else if (response.readableEnded) break;
        await pause(20);
      }
      resolve(size > 0 ? 'answered' : 'empty');
    });
    sent.on('error', () => resolve('failed'));
    for (let at = 0; at < text.length; at += 1000) sent.write(text.slice(at, at + 1000));
    sent.end();
  });
}

const expected = [];
for (const body of bodies) expected.push((await ask(body, false)).text);
const counts = { answered: 0, brokenOff: 0, errors: {}, wrong: 0, unclear: 0 };
async function client(until) {
  while (performance.now() < until) {
    const which = below(bodies.length);
    const control = new AbortController();
    if (random() < 0.5) setTimeout(() => control.abort(), below(1500));
    try {
      const { text, code } = await ask(bodies[which], random() < 0.5, control.signal);
      if (code !== undefined) counts.errors[code] = (counts.errors[code] ?? 0) + 1;
      else if (text === expected[which]) counts.answered++;
      else counts.wrong++;
    } catch (error) {
      if (control.signal.aborted) counts.brokenOff++;
      else {
        counts.unclear++;
        console.error(error);
      }
    }
  }
}
const run = (span) => Promise.all(Array.from({ length: clients }, () => client(performance.now() + span)));

await run(Math.min(60_000, (seconds * 1000) / 4));
await quiet();
const before = await memory();
const started = performance.now();
const slowly = Array.from({ length: slow }, () => askSlowly(bodies[below(bodies.length)]));
const loading = run(seconds * 1000);
let killed = 0;
for (; killed < kills; killed++) {
  const due = started + ((killed + 0.5) * seconds * 1000) / kills;
  await pause(Math.max(0, due - performance.now()));
  const children = (await import('node:fs')).readFileSync(`/proc/${server.pid}/task/${server.pid}/children`, 'utf8');
  const [engine] = children.trim().split(' ').map(Number);
  if (engine) process.kill(engine, killed % 2 ? 'SIGSTOP' : 'SIGKILL');
}
await loading;
const slowResults = await Promise.all(slowly);
await quiet();
const after = await memory();
const restarts = await metric('engine_restarts');
const mebibytes = ({ engine, server: own, tensors }) =>
  `engine ${(engine / 2 ** 20).toFixed(0)} MiB, server ${(own / 2 ** 20).toFixed(0)} MiB, ${tensors} tensors`;
console.log(JSON.stringify({ ...counts, restarts }));
const slowFailed = slowResults.filter((result) => result !== 'answered').length;
if (slow > 0) console.log(`slow clients: ${slow - slowFailed} answered, ${slowFailed} not`);
console.log(`after warm-up: ${mebibytes(before)}`);
console.log(`at the end:    ${mebibytes(after)}`);
server.kill('SIGTERM');
await new Promise((resolve) => server.once('exit', resolve));
const clear = Object.keys(counts.errors).every((code) => code === 'engine_restarting');
// A picture's embeddings stay, one tensor each.
const grew =
  after.server > before.server * 1.5 ||
  after.engine > before.engine * 1.5 ||
  after.tensors > before.tensors + bodies.length;
if (counts.wrong > 0 || counts.unclear > 0 || !clear || grew || restarts < kills || slowFailed > kills * 20)
  process.exitCode = 1;
