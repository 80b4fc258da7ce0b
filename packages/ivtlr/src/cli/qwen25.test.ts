/** Every command on a tiny Qwen2.5-VL, through the built program; `npm test` builds it first. */
import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { liveTensorCount, scope } from '@ivtlr/torch';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeCommandFolder } from '../../../../test/command-folder.ts';
import { post } from '../../../../test/served-model.ts';
import { QWEN25_VL, writeTinyQwen } from '../../../../test/tiny-qwen.ts';
import { reachedStep, startTraining, trainingSteps } from '../../../../test/training-run.ts';
import { openModelFolder } from '../engine/loaded-model.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const run = promisify(execFile);
const ivtlr = (...args: string[]) => run(process.execPath, [program, ...args]);
const json = async (...args: string[]) => JSON.parse((await ivtlr(...args, '--json')).stdout);

const recipe = `
task: m3cot
profile: consistent
model: MODEL
seed: 3
threads: 1
latent: { patches: 2, maxLatentStage: 2, epochsPerStage: 1, positions: mrope, pickOrder: score }
lora: { rank: 4, alpha: 8, dropout: 0.1, targets: [q_proj, v_proj, down_proj] }
activationCheckpointing: true
dtype: bfloat16
optimizer: { lr: 1.0e-3, clip: 0.7 }
globalBatch: 4
microBatch: 2
numEpochs: 3
data: { source: folder, folder: DATA, threads: 1, validation: { samples: 2, everyEpochs: 1, batch: 2, maxNewTokens: 4 } }
checkpoint: { everySteps: 2, keep: 2 }
out: OUT
`;

let folder = '';
let model = '';
let data = '';
let image = '';
const baseline = liveTensorCount();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-qwen25-'));
  ({ model, data, image } = await writeCommandFolder(folder, (to) => writeTinyQwen(to, QWEN25_VL), recipe));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const quick = ['--threads', '1', '--max-new-tokens', '6'];
const failure = (...args: string[]) => ivtlr(...args).catch((error) => error);

describe('ivtlr infer', () => {
  const ask = () => ['infer', '--model', model, '--image', image, '--question', 'Which?', '--choices', 'a', 'b'];

  it('asks a folder that says nothing as its makers meant', async () => {
    expect(await json(...ask(), ...quick)).toMatchObject({
      profile: 'plain',
      latents: 0,
      positions: 'mrope',
      images: [{ tokenGrid: [3, 5] }],
    });
  });

  it('traces what it looked at', async () => {
    const trace = join(folder, 'trace');
    const latent = ['--profile', 'consistent', '--latents', '3', '--patches', '4', '--trace', trace];
    const printed = await json(...ask(), ...quick, ...latent);
    expect(printed).toMatchObject({ latentSteps: 3, images: [{ tokenGrid: [3, 5] }], generatedTokens: 6 });
    const picked = printed.steps.flatMap((step: { picked: { token: number }[] }) =>
      step.picked.map(({ token }) => token),
    );
    expect(new Set(picked).size).toBe(12);
    const { width, height } = await sharp(printed.trace.image).metadata();
    expect([width! > 1000, height! > 300]).toEqual([true, true]);
  });

  it('says that there is no official profile, before the weights are read', async () => {
    for (const args of [ask(), ['data', 'inspect', 'm3cot', '--data', data, '--model', model, '--row', '1']]) {
      const failed = await failure(...args, '--profile', 'official');
      expect(failed).toMatchObject({ code: 2 });
      expect(failed.stderr).toContain('there is no profile official for qwen2_5_vl');
    }
    const trained = await failure('train', join(folder, 'recipe.yaml'), '--set', 'profile=official');
    expect([trained.code, trained.stderr]).toEqual([2, expect.stringContaining('there is no profile official')]);
  });
});

it('ivtlr data inspect shows a row as it is trained on', async () => {
  const png = join(folder, 'inspect.png');
  const inspect = ['data', 'inspect', 'm3cot', '--data', data, '--model', model, '--row', '1', '--png', png];
  const sample = await json(...inspect, '--stage', '2');
  expect(sample.images[0]).toMatchObject({ width: 70, height: 97, tokenGrid: [3, 2] });
  expect(sample.prompts.train).toBe('[Question]:{Which?}\n[Options]:\n(A).{disk}\n(B).{box}\nAnswer:\n');
  expect(sample.runs.map(({ kind }: { kind: string }) => kind).slice(0, 4)).toEqual([
    'prompt',
    'image',
    'prompt',
    'latent',
  ]);
  expect(sample.runs[0].text).toContain('You are a helpful assistant.');
});

const train = (out: string, ...more: string[]) => startTraining(folder, out, ...more);
const steps = (out: string) => trainingSteps(folder, out);

describe('ivtlr train', () => {
  it('trains adapters of the decoder, and after a kill goes on to the same ones', async () => {
    const whole = await train('whole').ended;
    expect(whole.code, whole.stderr).toBe(0);
    const killed = train('parts');
    await reachedStep(folder, 'parts', 5, killed.child);
    killed.child.kill('SIGKILL');
    await killed.ended;
    const last = await train('parts', '--resume').ended;
    expect(last.code, last.stderr).toBe(0);
    const adapter = (out: string) => readFileSync(join(folder, out, 'model', 'adapter_model.safetensors'));
    expect(adapter('parts').equals(adapter('whole'))).toBe(true);
    expect(adapter('whole').includes('model.language_model.layers.1.mlp.down_proj.lora_A')).toBe(true);
    expect(adapter('whole').includes('visual')).toBe(false);
    const losses = steps('whole').map((entry) => entry.kind === 'step' && entry.loss);
    expect(losses).toHaveLength(9);
    expect(losses.every((loss) => typeof loss === 'number' && loss > 0 && Number.isFinite(loss))).toBe(true);
  });

  it('trains all weights, the vision tower too, through the latent steps', async () => {
    const flags = ['lora=null', 'activationCheckpointing=false', 'dtype=float32', 'numEpochs=2'];
    const through = ['latent.latentGradient=through', 'latent.onExhausted=fewer', 'optimizer.lr=1e-2'];
    const { code, stderr } = await train('full', ...[...flags, ...through].flatMap((flag) => ['--set', flag])).ended;
    expect(code, stderr).toBe(0);
    const losses = steps('full').map((entry) => (entry.kind === 'step' ? entry.loss : Number.NaN));
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const before = openModelFolder(model);
    const after = openModelFolder(join(folder, 'full', 'model'));
    const old = before.model.module.namedParameters();
    for (const [name, trained] of after.model.module.namedParameters())
      expect([name, Boolean(scope(() => trained.eq(old.get(name)!).all().item()))]).toEqual([name, false]);
    before.model.module.dispose();
    after.model.module.dispose();
  });
});

describe('after training', () => {
  const trained = () => ['--model', join(folder, 'whole', 'model'), '--data', data, '--limit', '5', '--batch', '3'];

  it('ivtlr eval answers in batches, as one by one', async () => {
    const all = await json('eval', ...trained(), ...quick, '--predictions', join(folder, 'all.jsonl'));
    expect(all.results[0]).toMatchObject({ samples: 5 });
    await json('eval', ...trained(), ...quick, '--batch', '1', '--predictions', join(folder, 'single.jsonl'));
    const texts = (name: string) =>
      readFileSync(join(folder, name), 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).messages as [prompt: string, generated: string]);
    expect(texts('all.jsonl')).toEqual(texts('single.jsonl'));
    expect(texts('all.jsonl')).toHaveLength(5);
  });

  it('ivtlr ablate, ivtlr analyze and ivtlr merge', async () => {
    const report = await json('ablate', ...trained(), ...quick, '--max-latents', '2');
    expect(report.results.map(({ key }: { key: string }) => key)).toContain('random-patches');
    const out = join(folder, 'analysis');
    await ivtlr('analyze', ...trained(), ...quick, '--out', out);
    const { latent, written } = JSON.parse(readFileSync(join(out, 'analysis.json'), 'utf8')).models[0];
    expect(latent).toHaveLength(2);
    expect(written.length).toBeGreaterThan(0);
    await ivtlr('merge', join(folder, 'whole', 'model'), join(folder, 'merged'));
    const merged = openModelFolder(join(folder, 'merged'));
    expect(merged.settings).toMatchObject({ profile: 'consistent', positions: 'mrope', latents: 2 });
    merged.model.module.dispose();
  });

  it('ivtlr serve answers a chat', async () => {
    const args = ['serve', '--model', join(folder, 'whole', 'model'), '--port', '0', '--threads', '1'];
    const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    try {
      const url = await new Promise<string>((resolve, reject) => {
        let said = '';
        child.stdout.on('data', (piece) => {
          said += piece;
          if (said.includes('\n')) resolve(said.trim());
        });
        child.on('close', () => reject(new Error(`ended: ${said}`)));
      });
      const picture = `data:image/png;base64,${readFileSync(image, 'base64')}`;
      const content = [
        { type: 'image_url', image_url: { url: picture } },
        { type: 'text', text: 'Which?' },
      ];
      const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] };
      const messages = [{ role: 'user', content }];
      const response = await post(url, { model: data[0]!.id, max_tokens: 4, messages });
      const { choices, usage } = (await response.json()) as {
        choices: { message: { content: string } }[];
        usage: { completion_tokens: number };
      };
      expect(response.status).toBe(200);
      expect(typeof choices[0]!.message.content).toBe('string');
      expect(usage.completion_tokens).toBeGreaterThan(0);
    } finally {
      child.kill('SIGKILL');
    }
  });
});
