/** LoRA training through the built program; `npm test` builds it first. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { liveTensorCount } from '@ivtlr/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openModelFolder } from '../engine/loaded-model.ts';
import { loraLayers } from '../lora/inject.ts';
import { readMetrics } from '../train/metrics.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));

const recipe = `
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
deterministic: true
dtype: bfloat16
latent: { patches: 1, maxLatentStage: 2, epochsPerStage: 1 }
lora: { rank: 4, alpha: 8, dropout: 0.1, targets: [q_proj, v_proj, down_proj] }
activationCheckpointing: true
optimizer: { lr: 1.0e-3, clip: 0.7 }
globalBatch: 4
microBatch: 2
numEpochs: 4
data: { source: fresh, samplesPerEpoch: 24, validation: { samples: 2, everyEpochs: 2, batch: 2, maxNewTokens: 4 } }
checkpoint: { everySteps: 3, keep: 2, best: true }
tensorboard: true
out: OUT
`;
const totalSteps = 24;

let folder: string;
let file: string;
const baseline = liveTensorCount();
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-lora-run-'));
  file = join(folder, 'lora.yaml');
  writeFileSync(file, recipe);
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

function train(out: string, ...more: string[]) {
  const args = [program, 'train', file, '--set', `out=${join(folder, out)}`, ...more];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr!.on('data', (data) => {
    stderr += data;
  });
  const ended = new Promise<{ code: number | null; signal: string | null; stderr: string }>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal, stderr })),
  );
  return { child, ended };
}

const steps = (out: string) => readMetrics(join(folder, out, 'metrics.jsonl')).filter(({ kind }) => kind === 'step');
const adapter = (out: string) => readFileSync(join(folder, out, 'model', 'adapter_model.safetensors'));

async function reached(out: string, step: number, child: ChildProcess): Promise<void> {
  while (child.exitCode === null && child.signalCode === null) {
    if ((steps(out).at(-1)?.step ?? 0) >= step) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe('ivtlr train with LoRA', () => {
  it('ends in the same adapter after a kill and a SIGTERM, and stores no base weights on the way', async () => {
    const whole = await train('whole').ended;
    expect(whole.code, whole.stderr).toBe(0);
    expect(whole.stderr).toMatch(
      /memory: about .* \(weights .*, gradients .*, optimiser .*, activations .* rows of \d+ columns\)/,
    );
    const killed = train('parts');
    await reached('parts', 7, killed.child);
    killed.child.kill('SIGKILL');
    await killed.ended;
    const stopped = train('parts', '--resume');
    await reached('parts', 15, stopped.child);
    stopped.child.kill('SIGTERM');
    const { code, stderr } = await stopped.ended;
    expect(code, stderr).toBe(143);
    expect(stderr).toContain('stopped by SIGTERM; checkpoint');
    const last = await train('parts', '--resume').ended;
    expect(last.code, last.stderr).toBe(0);
    expect(adapter('parts').equals(adapter('whole'))).toBe(true);
    const losses = (out: string) => steps(out).map((entry) => entry.kind === 'step' && entry.loss);
    expect(losses('parts')).toEqual(losses('whole'));
    expect(steps('whole')).toHaveLength(totalSteps);

    const root = join(folder, 'whole');
    expect(readdirSync(join(root, 'model')).sort()).toEqual([
      'adapter_config.json',
      'adapter_model.safetensors',
      'ivtlr.json',
    ]);
    const checkpoint = join(root, 'checkpoints', readFileSync(join(root, 'checkpoints', 'latest'), 'utf8').trim());
    expect(readdirSync(checkpoint).sort()).toEqual([
      'adapter_config.json',
      'adapter_model.safetensors',
      'ivtlr.json',
      'optimizer.safetensors',
      'recipe.json',
      'state.json',
    ]);
    expect(existsSync(join(root, 'best', 'adapter_model.safetensors'))).toBe(true);
    expect(JSON.parse(readFileSync(join(root, 'best', 'validation.json'), 'utf8'))).toMatchObject({ samples: 2 });
    expect(readdirSync(join(root, 'tensorboard'))).toHaveLength(1);
  });

  it('writes an adapter that learned something and that eval opens with its base', () => {
    const model = join(folder, 'whole', 'model');
    const opened = openModelFolder(model, { mergeAdapters: false });
    expect(opened.settings).toMatchObject({ task: 'dominoes', latents: 2, patches: 1, profile: 'consistent' });
    expect(opened.adapter).toMatchObject({ rank: 4, alpha: 8, dropout: 0.1 });
    const layers = loraLayers(opened.model.module);
    expect(layers.size).toBe(6);
    for (const { lora_B, training } of layers.values()) {
      expect(lora_B.weight.toNumbers().some((value) => value !== 0)).toBe(true);
      expect(training).toBe(false);
    }
    opened.model.module.dispose();
    const args = [
      'eval',
      '--model',
      model,
      '--rows',
      '4',
      '--batch',
      '2',
      '--max-new-tokens',
      '4',
      '--threads',
      '1',
      // In bfloat16 merged weights are rounded once more, which may decide between two tokens.
      '--dtype',
      'float32',
      '--json',
    ];
    const [merged, apart] = [[], ['--no-merge']].map((more, i) => {
      const predictions = join(folder, `predictions-${i}.jsonl`);
      const { status, stdout, stderr } = spawnSync(
        process.execPath,
        [program, ...args, ...more, '--predictions', predictions],
        { encoding: 'utf8' },
      );
      expect(status, stderr).toBe(0);
      expect(JSON.parse(stdout).results[0].samples).toBe(4);
      const lines = readFileSync(predictions, 'utf8').trimEnd().split('\n');
      return lines
        .map((line) => JSON.parse(line))
        .flatMap(({ messages }) => (messages === undefined ? [] : [messages]));
    });
    expect(merged).toHaveLength(4);
    expect(merged).toEqual(apart);
  });

  it('trains an adapter further, or all weights with the adapter merged into them', async () => {
    const from = ['--set', `model=${join(folder, 'whole', 'model')}`, '--set', 'numEpochs=1'];
    const further = await train('further', ...from).ended;
    expect(further.code, further.stderr).toBe(0);
    expect(adapter('further').equals(adapter('whole'))).toBe(false);
    const other = await train('other', ...from, '--set', 'lora.rank=2').ended;
    expect(other).toMatchObject({ code: 2 });
    expect(other.stderr).toContain('the adapter to go on with has rank 4');
    const full = await train('full', ...from, '--set', 'lora=null').ended;
    expect(full.code, full.stderr).toBe(0);
    expect(readdirSync(join(folder, 'full', 'model'))).toContain('model.safetensors');
  });
});

it('says where the base of an adapter should be', () => {
  const config = join(folder, 'whole', 'model', 'adapter_config.json');
  const json = JSON.parse(readFileSync(config, 'utf8'));
  const lost = mkdtempSync(join(folder, 'lost-'));
  writeFileSync(
    join(lost, 'adapter_config.json'),
    JSON.stringify({ ...json, base_model_name_or_path: 'Qwen/Nowhere' }),
  );
  expect(() => openModelFolder(lost)).toThrow(/the base model Qwen\/Nowhere is no folder with a config.json/);
});
