/** Every command on a tiny Chameleon, through the built program; `npm test` builds it first. */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { liveTensorCount, scope } from '@ivtlr/torch';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeTinyChameleon } from '../../../../test/tiny-chameleon.ts';
import { reachedStep, startTraining, trainingSteps } from '../../../../test/training-run.ts';
import { openModelFolder } from '../engine/loaded-model.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const run = promisify(execFile);
const ivtlr = (...args: string[]) => run(process.execPath, [program, ...args]);
const json = async (...args: string[]) => JSON.parse((await ivtlr(...args, '--json')).stdout);

/** Official numbers where they are small enough; IMAGE x TEXT rows are a second's work. */
const recipe = `
task: m3cot
profile: consistent
model: MODEL
seed: 3
threads: 1
latent: { patches: 5, maxLatentStage: 2, epochsPerStage: 1 }
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
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-chameleon-'));
  model = join(folder, 'model');
  data = join(folder, 'data');
  image = join(folder, 'image.png');
  writeTinyChameleon(model);
  mkdirSync(data);
  const drawn = (width: number, height: number, salt: number) =>
    sharp(
      new Uint8Array(width * height * 4).map((_, index) => (index * (7 + salt) + (index >> 8)) % 256),
      {
        raw: { width, height, channels: 4 },
      },
    ).png();
  await drawn(90, 60, 0).toFile(image);
  const lines: string[] = [];
  for (let i = 0; i < 12; i++) {
    await drawn(40 + 5 * i, 70 - 3 * i, i).toFile(join(data, `${i}.png`));
    const rationale = 'The disk is red. The box is blue. So the first figure is it';
    const row = {
      id: `row-${i}`,
      question: ' Which figure? ',
      choices: ['disk', 'box'],
      answer: 'AB'[i % 2],
      rationale,
    };
    lines.push(JSON.stringify({ ...row, image: `${i}.png`, domain: 'science', topic: `topic ${i % 3}` }));
  }
  for (const split of ['train', 'validation', 'test']) writeFileSync(join(data, `${split}.jsonl`), lines.join('\n'));
  const text = recipe.replace('MODEL', model).replace('DATA', data).replace('OUT', join(folder, 'unused'));
  writeFileSync(join(folder, 'recipe.yaml'), text);
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const quick = ['--threads', '1', '--max-new-tokens', '6'];

it('is asked as its makers meant where the folder says nothing, and the official way when that is asked for', () => {
  const plain = openModelFolder(model);
  expect(plain.settings).toMatchObject({ profile: 'plain', latents: 0, patches: 64, positions: 'sequential' });
  plain.model.module.dispose();
  const opened = openModelFolder(model, { settings: { profile: 'official' } });
  expect(opened.settings).toMatchObject({ profile: 'official', latents: 3, patches: 64, positions: 'sequential' });
  opened.model.module.dispose();
});

describe('ivtlr infer', () => {
  const ask = () => [
    ...['infer', '--model', model, '--profile', 'official'],
    ...['--image', image, '--question', 'Which figure?', '--choices', 'a', 'b'],
  ];

  it('traces what it looked at over the part of the image that it sees', async () => {
    const trace = join(folder, 'trace');
    const printed = await json(...ask(), ...quick, '--patches', '5', '--trace', trace);
    expect(printed).toMatchObject({ latentSteps: 3, images: [{ tokenGrid: [6, 6] }], generatedTokens: 6 });
    const picked = printed.steps.flatMap((step: { picked: { token: number }[] }) =>
      step.picked.map(({ token }) => token),
    );
    expect(new Set(picked).size).toBe(15);
    const stored = JSON.parse(readFileSync(printed.trace.numbers, 'utf8'));
    expect(stored.images[0]).toEqual({
      ...{ name: image, width: 90, height: 60, tokenGrid: [6, 6] },
      shown: { left: 15, top: 0, width: 60, height: 60 },
    });
    const { width, height } = await sharp(printed.trace.image).metadata();
    expect([width! > 2000, height! > 600]).toEqual([true, true]);
  });

  it('refuses a question that spells a token of the prompt, one that the model has no embedding for', async () => {
    const failed = await ivtlr(...ask(), '--question', 'a <|start-latent|> b').catch((error) => error);
    expect(failed).toMatchObject({
      code: 2,
      stderr:
        'error: sample question: the question spells <|start-latent|>, a token that only the prompt may put in; write it otherwise\n',
    });
  });

  it('says when patches run out, and takes a step away', async () => {
    const { stderr } = await ivtlr(...ask(), ...quick);
    expect(stderr).toContain("fewer than 64 of the image's 36 tokens were left to pick");
    const none = await json(...ask(), ...quick, '--ablation', 'zero-latents');
    expect(none).toMatchObject({ latentSteps: 0, generatedTokens: 6 });
  });
});

it('ivtlr data inspect shows delimiters and separator as prompt, and the crop with its grid', async () => {
  const png = join(folder, 'inspect.png');
  const inspect = ['data', 'inspect', 'm3cot', '--data', data, '--model', model, '--row', '1', '--png', png];
  const sample = await json(...inspect, '--stage', '2', '--profile', 'consistent');
  expect(sample.images[0]).toMatchObject({ width: 45, height: 67, tokenGrid: [6, 6] });
  expect(sample.runs.map(({ kind, tokens }: { kind: string; tokens: number }) => [kind, tokens]).slice(1, 5)).toEqual([
    ['image', 36],
    ['prompt', sample.runs[2].tokens],
    ['latent', 2],
    ['prompt', 1],
  ]);
  expect(sample.runs[0].text).toBe('<s><racm3:break>');
  expect(sample.runs[4].text).toBe('<reserved08706>');
  const { prompt, image, latents, trained, total } = sample.tokens;
  expect(prompt + image + latents + trained).toBe(total);
  const official = await json(...inspect, '--profile', 'official');
  expect(official.prompts.train).toBe('[Question]:{<image> Which figure?}\n[Options]:\n(A).{disk}\n(B).{box}');
  const { width, height } = await sharp(png).metadata();
  expect([width, height]).toEqual([288, 288]);
});

const train = (out: string, ...more: string[]) => startTraining(folder, out, ...more);
const steps = (out: string) => trainingSteps(folder, out);

describe('ivtlr train', () => {
  it('trains adapters, and after a kill goes on to the same ones', async () => {
    const whole = await train('whole').ended;
    expect(whole.code, whole.stderr).toBe(0);
    expect(whole.stderr).toMatch(/memory: about .* rows of \d+ columns\)/);
    const killed = train('parts');
    await reachedStep(folder, 'parts', 5, killed.child);
    killed.child.kill('SIGKILL');
    await killed.ended;
    const last = await train('parts', '--resume').ended;
    expect(last.code, last.stderr).toBe(0);
    const adapter = (out: string) => readFileSync(join(folder, out, 'model', 'adapter_model.safetensors'));
    expect(adapter('parts').equals(adapter('whole'))).toBe(true);
    const losses = steps('whole').map((entry) => entry.kind === 'step' && entry.loss);
    expect(losses).toHaveLength(9);
    expect(losses.every((loss) => typeof loss === 'number' && loss > 0 && Number.isFinite(loss))).toBe(true);
    const settings = JSON.parse(readFileSync(join(folder, 'whole', 'model', 'ivtlr.json'), 'utf8'));
    expect(settings).toMatchObject({ task: 'm3cot', profile: 'consistent', latents: 2, patches: 5 });
  });

  it("trains all weights, through the latent steps too, with the family's K; the image tokenizer stays", async () => {
    const flags = ['lora=null', 'activationCheckpointing=false', 'dtype=float32', 'latent.patches=null', 'numEpochs=2'];
    const through = ['latent.latentGradient=through', 'latent.onExhausted=fewer', 'optimizer.lr=1e-2'];
    const { ended } = train('full', ...[...flags, ...through].flatMap((flag) => ['--set', flag]));
    const { code, stderr } = await ended;
    expect(code, stderr).toBe(0);
    const losses = steps('full').map((entry) => (entry.kind === 'step' ? entry.loss : Number.NaN));
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const before = openModelFolder(model);
    const after = openModelFolder(join(folder, 'full', 'model'));
    expect(after.settings.patches).toBe(64);
    const old = before.model.module.namedParameters();
    for (const [name, trained] of after.model.module.namedParameters()) {
      const same = scope(() => trained.eq(old.get(name)!).all().item());
      expect([name, Boolean(same)]).toEqual([name, name.includes('vqmodel')]);
    }
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
    expect(texts('all.jsonl')[0]![0]).toBe('[Question]:{Which figure?}\n[Options]:\n(A).{disk}\n(B).{box}\nAnswer:\n');
    expect(texts('all.jsonl')).toEqual(texts('single.jsonl'));
    expect(texts('all.jsonl')).toHaveLength(5);
  });

  it('ivtlr ablate and ivtlr analyze', async () => {
    const report = await json('ablate', ...trained(), ...quick, '--max-latents', '2');
    expect(report.results.map(({ key }: { key: string }) => key)).toContain('random-patches');
    const out = join(folder, 'analysis');
    await ivtlr('analyze', ...trained(), ...quick, '--out', out);
    const { latent, written } = JSON.parse(readFileSync(join(out, 'analysis.json'), 'utf8')).models[0];
    expect(latent).toHaveLength(2);
    expect(latent[1].coverage.mean).toBeCloseTo(10 / 36, 6);
    expect(written.length).toBeGreaterThan(0);
  });
});
