/** Trainings that are killed, stopped, run twice or out of disk, through the built program; `npm test` builds it first. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cudaAvailable } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readMetrics } from '../train/metrics.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const hook = fileURLToPath(new URL('../../../../test/faulty-files.mjs', import.meta.url));

const tiny = `
task: dominoes
maxSteps: 4
model:
  initSeed: 1
  config:
    model_type: qwen2_vl
    hidden_size: 16
    intermediate_size: 16
    num_hidden_layers: 1
    num_attention_heads: 1
    num_key_value_heads: 1
    rope_scaling: { type: mrope, mrope_section: [2, 3, 3] }
    tie_word_embeddings: true
    vision_config: { depth: 1, embed_dim: 16, num_heads: 1, mlp_ratio: 1, hidden_size: 16 }
threads: 1
deterministic: true
latent: { patches: 1, maxLatentStage: 1, epochsPerStage: 1 }
optimizer: { lr: 1.0e-3 }
globalBatch: 1
microBatch: 1
numEpochs: 1
data: { source: fresh, samplesPerEpoch: 4 }
checkpoint: { everySteps: 2 }
out: OUT
`;

let folder: string;
let recipe: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-faults-'));
  recipe = join(folder, 'tiny.yaml');
  writeFileSync(recipe, tiny);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function start(out: string, more: readonly string[] = [], faults: Record<string, string> = {}) {
  const args = [program, 'train', recipe, '--set', `out=${join(folder, out)}`, ...more];
  // An option of the environment reaches the threads too.
  const env = { ...process.env, NODE_OPTIONS: `--import ${hook}`, ...faults };
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
  const text = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name].on('data', (data) => {
      text[name] += data;
    });
  const ended = new Promise<{ code: number | null; signal: string | null; stdout: string; stderr: string }>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal, ...text })),
  );
  return { child, ended };
}
const train = (...args: Parameters<typeof start>) => start(...args).ended;

/** A run that goes on until it is told to stop, past its first step. */
async function startLong(out: string) {
  const run = start(out, ['--set', 'data.samplesPerEpoch=1000000', '--set', 'checkpoint.everySteps=null']);
  while (run.child.exitCode === null && readMetrics(join(folder, out, 'metrics.jsonl')).length === 0)
    await new Promise((resolve) => setTimeout(resolve, 10));
  return run;
}
const files = (out: string) => readdirSync(join(folder, out), { recursive: true }).map(String);

describe('a kill in the first checkpoint', () => {
  it('before it is whole: the run starts anew, with --resume and without', async () => {
    for (const more of [[], ['--resume']]) {
      const out = `early${more.length}`;
      const killed = await train(out, [], { FAULT_PATH: 'step-00000002.partial', KILL_AT_CALL: '6' });
      expect(killed.signal, killed.stderr).toBe('SIGKILL');
      expect(files(out).some((name) => name.endsWith('.partial'))).toBe(true);
      const again = await train(out, more);
      expect(again.code, again.stderr).toBe(0);
      expect(readMetrics(join(folder, out, 'metrics.jsonl'))).toHaveLength(4);
      expect(files(out).filter((name) => /partial|displaced|lock|tmp/.test(name))).toEqual([]);
    }
  });

  it('before it is named the latest: the run goes on from it', async () => {
    const killed = await train('late', [], { FAULT_PATH: 'checkpoints/latest', KILL_AT_CALL: '1' });
    expect(killed.signal, killed.stderr).toBe('SIGKILL');
    expect(existsSync(join(folder, 'late', 'checkpoints', 'latest'))).toBe(false);
    expect((await train('late')).stderr).toContain('already holds a run: go on with --resume');
    const resumed = await train('late', ['--resume']);
    expect(resumed.code, resumed.stderr).toBe(0);
    expect(resumed.stderr).toContain('going on after step 2 of 4');
  });
});

describe('a training that is stopped', () => {
  it('lets nobody else in, and ends with 143 after SIGTERM', async () => {
    const run = await startLong('held');
    const second = await train('held', ['--resume']);
    expect(second.code).toBe(2);
    expect(second.stderr).toMatch(
      new RegExp(`^error: .*held is being trained in by process ${run.child.pid} on .*\\n$`),
    );
    run.child.kill('SIGTERM');
    const { code, stderr } = await run.ended;
    expect(code, stderr).toBe(143);
    expect(files('held')).not.toContain('lock');
  });

  it('writes its checkpoint when the terminal and whoever read its messages are gone', async () => {
    const run = await startLong('hangup');
    run.child.stderr.destroy();
    run.child.stdout.destroy();
    run.child.kill('SIGHUP');
    expect((await run.ended).code).toBe(129);
    expect(files('hangup')).toContain(join('checkpoints', 'latest'));
  });

  it('runs to its end on a closed pipe', async () => {
    const run = start('unread');
    run.child.stderr.destroy();
    const { code, stdout } = await run.ended;
    expect(code).toBe(0);
    expect(stdout).toContain(`model: ${join(folder, 'unread', 'model')}`);
  });
});

describe('ivtlr train', () => {
  it('says where the disk is full and leaves nothing half-written', async () => {
    for (const [out, fault, named] of [
      ['full-1', 'optimizer.safetensors', 'step-00000002'],
      ['full-2', 'model.partial/', 'model.partial/chat_template.json'],
    ] as const) {
      const { code, stderr } = await train(out, [], { FAULT_PATH: fault, FULL_DISK_AFTER: '100' });
      expect(code, stderr).toBe(2);
      const sentence = stderr.split('\n').filter((line) => line.startsWith('error: '));
      expect(sentence).toHaveLength(1);
      expect(sentence[0]).toContain(`${named}: ENOSPC: no space left on device`);
      expect(files(out).filter((name) => /partial|displaced|lock|tmp/.test(name))).toEqual([]);
      const again = await train(out, ['--resume']);
      expect(again.code, again.stderr).toBe(0);
    }
  });

  it('prints its result as one object with --json', async () => {
    const { code, stdout, stderr } = await train('json', ['--json']);
    expect(code, stderr).toBe(0);
    const out = join(folder, 'json');
    expect(JSON.parse(stdout)).toEqual({
      out,
      model: join(out, 'model'),
      steps: 4,
      seconds: expect.any(Number),
      metrics: join(out, 'metrics.jsonl'),
      checkpoint: join(out, 'checkpoints', 'step-00000004'),
      stopped: null,
    });
    expect(stderr).not.toContain('\r');
  });

  it('runs where it can, says where, and refuses in one sentence what is not there', async () => {
    const finished = await train('json', ['--resume', '--set', 'device=auto']);
    expect(finished.code, finished.stderr).toBe(0);
    expect(finished.stderr).toMatch(
      cudaAvailable() ? /^device: cuda$/m : /^device: cpu \(this libtorch sees no CUDA GPU\)$/m,
    );
    writeFileSync(join(folder, 'file'), '');
    const blocked = await train('file');
    expect(blocked.code).toBe(2);
    expect(blocked.stderr).toMatch(/^error: cannot make the folder .*file: .*is a file\n$/);
    const absent = await train('gpu', ['--set', 'device=cuda:99']);
    expect(absent.code).toBe(2);
    expect(absent.stderr).toMatch(/^error: device cuda:99: .*; use device auto or cpu\n$/);
  });

  it('goes on past lines of the metrics that are none', async () => {
    const metrics = join(folder, 'json', 'metrics.jsonl');
    writeFileSync(metrics, `null\n[]\n3\n{"kind":"step"}\n{torn\n${readFileSync(metrics, 'utf8')}`);
    const resumed = await train('json', ['--resume']);
    expect(resumed.code, resumed.stderr).toBe(0);
    expect(readMetrics(metrics)).toHaveLength(4);
  });
});
