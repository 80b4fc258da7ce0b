/** Runs the built program as a user would; `npm test` builds it first. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readMetrics } from '../train/metrics.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));

/** All kinds of phases in few steps: pretraining, stages with optimiser resets, replay, several micro-batches. */
const tiny = `
task: dominoes
maxSteps: 4
model:
  initSeed: 1
  config:
    model_type: qwen2_vl
    hidden_size: 32
    intermediate_size: 32
    num_hidden_layers: 1
    num_attention_heads: 2
    num_key_value_heads: 1
    rope_theta: 10000
    rope_scaling: { type: mrope, mrope_section: [2, 3, 3] }
    tie_word_embeddings: true
    vision_config: { depth: 1, embed_dim: 16, num_heads: 1, mlp_ratio: 2, hidden_size: 32 }
seed: 3
threads: 1
deterministic: true
latent: { patches: 1, maxLatentStage: 2, epochsPerStage: 2, latentGradient: through, pickSupervision: 0.2, hideImageFromLatents: true, replay: 0.5 }
optimizer: { lr: 1.0e-3, clip: 1.0 }
schedule: { warmupSteps: 2, decayTo: 0.1 }
resetOptimizerAtStage: true
globalBatch: 4
microBatch: 2
numEpochs: 6
data: { source: fresh, samplesPerEpoch: 14, validation: { samples: 2, everyEpochs: 3, batch: 2, maxNewTokens: 4 } }
pretrain:
  - { name: read, steps: 5, mix: [{ task: picture, batch: 2 }, { task: options, batch: 2 }], ramp: { from: 1, to: 7, steps: 4 }, lr: 1.0e-3 }
checkpoint: { everySteps: 3, keep: 2, stageModels: true }
out: OUT
`;
const totalSteps = 5 + 6 * 4;

let folder: string;
let recipe: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-train-'));
  recipe = join(folder, 'tiny.yaml');
  writeFileSync(recipe, tiny);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stderr: string;
}

function start(args: readonly string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr!.on('data', (data) => {
    stderr += data;
  });
  return {
    child,
    ended: new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal, stderr }))),
  };
}

const train = (out: string, ...more: string[]) =>
  start(['train', recipe, '--set', `out=${join(folder, out)}`, ...more]);
const steps = (out: string) => readMetrics(join(folder, out, 'metrics.jsonl')).filter((entry) => entry.kind === 'step');
const weights = (out: string) => readFileSync(join(folder, out, 'model', 'model.safetensors'));

/** Resolves when the run has logged `step`, or has ended. */
async function reached(out: string, step: number, child: ChildProcess): Promise<void> {
  while (child.exitCode === null && child.signalCode === null) {
    const last = existsSync(join(folder, out, 'metrics.jsonl')) ? steps(out).at(-1)?.step : undefined;
    if (last !== undefined && last >= step) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe('ivtlr train', () => {
  it('ends in the same bits after three kills at random points', async () => {
    const whole = await train('whole').ended;
    expect(whole.code, whole.stderr).toBe(0);
    let killed = 0;
    for (let tries = 0; killed < 3 && tries < 12; tries++) {
      const { child, ended } = train('killed', '--resume');
      // Anywhere in this third of the run, and at any moment of the step that follows.
      const at = Math.floor((totalSteps / 3) * (killed + Math.random()));
      await reached('killed', at, child);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
      child.kill('SIGKILL');
      if ((await ended).signal === 'SIGKILL') killed++;
      else {
        // On a busy machine the run may end before it is seen: then all over again.
        killed = 0;
        rmSync(join(folder, 'killed'), { recursive: true });
      }
    }
    expect(killed).toBe(3);
    const last = await train('killed', '--resume').ended;
    expect(last.code, last.stderr).toBe(0);
    expect(weights('killed').equals(weights('whole'))).toBe(true);
    expect(steps('killed').map(({ step, loss }) => [step, loss])).toEqual(
      steps('whole').map(({ step, loss }) => [step, loss]),
    );
    expect(steps('whole')).toHaveLength(totalSteps);
    for (const name of ['read', 'stage-0', 'stage-1', 'stage-2']) {
      expect(existsSync(join(folder, 'killed', 'models', name, 'ivtlr.json'))).toBe(true);
    }
  });

  it('writes a checkpoint on SIGINT and says how to go on', async () => {
    const { child, ended } = train('stopped', '--set', 'checkpoint.everySteps=null');
    await reached('stopped', 7, child);
    child.kill('SIGINT');
    const { code, stderr } = await ended;
    expect(code).toBe(130);
    expect(stderr).toMatch(
      /go on with: ivtlr train .*tiny\.yaml --set out=.* --set checkpoint\.everySteps=null --resume/,
    );
    const rest = await train('stopped', '--resume').ended;
    expect(rest.code, rest.stderr).toBe(0);
    expect(weights('stopped').equals(weights('whole'))).toBe(true);
  });

  it('refuses to overwrite a run, or to resume it with another recipe', async () => {
    const again = await train('whole').ended;
    expect(again).toMatchObject({ code: 2 });
    expect(again.stderr).toContain('already holds a run: go on with --resume');
    const changed = await train('whole', '--resume', '--set', 'optimizer.lr=1e-4').ended;
    expect(changed).toMatchObject({ code: 2 });
    expect(changed.stderr).toContain('optimizer.lr (was 0.001, now 0.0001)');
  });
});
