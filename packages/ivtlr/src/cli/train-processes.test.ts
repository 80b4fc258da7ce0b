/** `ivtlr train --processes`, as a user runs it; `npm test` builds it first. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readMetrics } from '../train/metrics.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));

const tiny = `
task: dominoes
maxSteps: 4
model:
  initSeed: 1
  config:
    model_type: qwen2_vl
    hidden_size: 32
    intermediate_size: 32
    num_hidden_layers: 2
    num_attention_heads: 2
    num_key_value_heads: 1
    rope_theta: 10000
    rope_scaling: { type: mrope, mrope_section: [2, 3, 3] }
    tie_word_embeddings: true
    vision_config: { depth: 1, embed_dim: 16, num_heads: 1, mlp_ratio: 2, hidden_size: 32 }
seed: 3
threads: 1
latent: { patches: 1, maxLatentStage: 2, epochsPerStage: 2, replay: 0.5 }
lora: { rank: 3, alpha: 6, dropout: 0.1, targets: [q_proj, v_proj, down_proj] }
optimizer: { lr: 1.0e-3, clip: 1.0 }
globalBatch: 6
microBatch: 2
numEpochs: 6
data: { source: fresh, samplesPerEpoch: 34, validation: { samples: 3, everyEpochs: 3, batch: 2, maxNewTokens: 4 } }
checkpoint: { everySteps: 3, keep: 2 }
tensorboard: true
parallel: { timeout: 30 }
out: OUT
`;
const TOTAL = 6 * 6;

let folder = '';
let recipe = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-processes-'));
  recipe = join(folder, 'tiny.yaml');
  writeFileSync(recipe, tiny);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function start(out: string, ...more: string[]) {
  const child = spawn(process.execPath, [program, 'train', recipe, '--set', `out=${join(folder, out)}`, ...more], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data) => {
    stdout += data;
  });
  child.stderr.on('data', (data) => {
    stderr += data;
  });
  const ended = new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
  return { child, ended };
}

const log = (out: string, rank: number) => join(folder, out, 'logs', `rank-${rank}.log`);
const pidsOf = (out: string, rank: number) =>
  existsSync(log(out, rank))
    ? [...readFileSync(log(out, rank), 'utf8').matchAll(/pid (\d+)/g)].map(([, pid]) => Number(pid))
    : [];
const stepsOf = (out: string) =>
  readMetrics(join(folder, out, 'metrics.jsonl')).filter(({ kind }) => kind === 'step').length;
const weights = (out: string) => readFileSync(join(folder, out, 'model', 'adapter_model.safetensors'));
const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};
async function until(look: () => boolean, seconds = 60): Promise<void> {
  for (const end = performance.now() + seconds * 1000; !look(); ) {
    if (performance.now() > end) throw new Error('it did not come to that');
    await pause(20);
  }
}

test('one progress, one set of files, a log for each', async () => {
  const { code, stdout, stderr } = await start('plain', '--processes', '3', '--json').ended;
  expect(code, stderr).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ steps: TOTAL, stopped: null });
  expect(stderr.match(/held-out samples/g)).toHaveLength(4);
  expect(stepsOf('plain')).toBe(TOTAL);
  expect(readdirSync(join(folder, 'plain', 'tensorboard'))).toHaveLength(1);
  expect(readdirSync(join(folder, 'plain', 'logs'))).toEqual(['rank-0.log', 'rank-1.log', 'rank-2.log']);
  expect(existsSync(join(folder, 'plain', 'lock'))).toBe(false);
});

test('a mistake is told once', async () => {
  const wrong = await start('wrong', '--processes', '2', '--set', 'optimizer.lr=-1').ended;
  expect(wrong.code).toBe(2);
  expect(wrong.stderr.match(/error:/g)).toHaveLength(1);
  const taken = await start('plain', '--processes', '2').ended;
  expect(taken.code).toBe(2);
  expect(taken.stderr.match(/already holds a run/g)).toHaveLength(1);
});

test('ten kills of random processes at random moments end in the same bytes', { timeout: 400_000 }, async () => {
  const unbroken = await start('unbroken', '--processes', '3', '--set', 'parallel.zero=3').ended;
  expect(unbroken.code, unbroken.stderr).toBe(0);
  const { child, ended } = start('killed', '--processes', '3', '--max-restarts', '10', '--set', 'parallel.zero=3');
  let kills = 0;
  for (let seed = 7; kills < 10; kills++) {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    const rank = seed % 3;
    await until(() => child.exitCode !== null || pidsOf('killed', rank).length > kills);
    // Between being started and some steps later: before it has joined, while it trains, while it writes.
    const before = stepsOf('killed');
    const moment = performance.now() + 200 + (seed % 1800);
    await until(() => child.exitCode !== null || performance.now() > moment || stepsOf('killed') > before + 1);
    if (child.exitCode !== null) break;
    process.kill(pidsOf('killed', rank)[kills]!, 'SIGKILL');
  }
  const { code, stderr } = await ended;
  expect(code, stderr).toBe(0);
  expect(kills).toBe(10);
  expect(stderr).toContain('restart 10 of 10');
  expect(weights('killed').equals(weights('unbroken'))).toBe(true);
  expect(stepsOf('killed')).toBe(TOTAL);
});

test('a signal stops all, and the run goes on with other numbers of processes and other stages', {
  timeout: 300_000,
}, async () => {
  const ways = [
    ['1', '2'],
    ['3', '3'],
    ['2', '1'],
    ['4', '0'],
  ] as const;
  for (const [at, [processes, zero]] of ways.entries()) {
    const flags = ['--processes', processes, '--set', `parallel.zero=${zero}`, ...(at > 0 ? ['--resume'] : [])];
    const { child, ended } = start('changing', ...flags);
    if (at < ways.length - 1) {
      await until(() => child.exitCode !== null || stepsOf('changing') >= 8 * (at + 1));
      child.kill('SIGTERM');
    }
    const { code, stderr } = await ended;
    expect(code, stderr).toBe(at < ways.length - 1 ? 143 : 0);
  }
  expect(stepsOf('changing')).toBe(TOTAL);
  const losses = (out: string) =>
    readMetrics(join(folder, out, 'metrics.jsonl')).flatMap((entry) => (entry.kind === 'step' ? [entry.loss] : []));
  const wanted = losses('unbroken');
  losses('changing').forEach((loss, step) => {
    expect(Math.abs(loss / wanted[step]! - 1), `step ${step + 1}`).toBeLessThan(1e-5);
  });
});

test('workers end with their launcher', async () => {
  const { child } = start('orphans', '--processes', '2', '--set', 'numEpochs=2000');
  await until(() => stepsOf('orphans') > 2);
  const pids = [0, 1].map((rank) => pidsOf('orphans', rank)[0]!);
  expect(pids.every(isAlive)).toBe(true);
  child.kill('SIGKILL');
  await until(() => !pids.some(isAlive), 10);
});
