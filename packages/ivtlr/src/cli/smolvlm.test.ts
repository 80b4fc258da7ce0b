/** Every command on a tiny SmolVLM, through the built program; `npm test` builds it first. */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { liveTensorCount, scope } from '@ivtlr/torch';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeTinySmolVlm } from '../../../../test/tiny-smolvlm.ts';
import { reachedStep, startTraining, trainingSteps } from '../../../../test/training-run.ts';
import { openModelFolder } from '../engine/loaded-model.ts';

const program = fileURLToPath(new URL('../../bin/ivtlr.mjs', import.meta.url));
const run = promisify(execFile);
const ivtlr = (...args: string[]) => run(process.execPath, [program, ...args]);
const json = async (...args: string[]) => JSON.parse((await ivtlr(...args, '--json')).stdout);

/** Pictures of two tiles and the whole: 3 x 16 image tokens. */
const recipe = `
task: m3cot
profile: consistent
imageSize: 64x32
model: MODEL
seed: 3
threads: 1
latent: { patches: 5, maxLatentStage: 2, epochsPerStage: 1 }
lora: { rank: 4, alpha: 8, dropout: 0.1, targets: [q_proj, v_proj, down_proj] }
activationCheckpointing: true
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
  folder = mkdtempSync(join(tmpdir(), 'ivtlr-smolvlm-'));
  model = join(folder, 'model');
  data = join(folder, 'data');
  image = join(folder, 'image.png');
  writeTinySmolVlm(model);
  mkdirSync(data);
  const drawn = (width: number, height: number, salt: number) =>
    sharp(
      new Uint8Array(width * height * 3).map((_, index) => (index * (7 + salt) + (index >> 8)) % 256),
      { raw: { width, height, channels: 3 } },
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
const ask = () => ['infer', '--model', model, '--image', image, '--question', 'Which figure?', '--choices', 'a', 'b'];

describe('ivtlr infer', () => {
  it('traces what it looked at in the tiles and in the whole picture', async () => {
    const trace = join(folder, 'trace');
    const latent = ['--profile', 'consistent', '--patches', '9', '--trace', trace];
    const printed = await json(...ask(), ...quick, ...latent);
    // 90x60 becomes 128x86, stretched to 4 x 3 tiles of 4 x 4 tokens.
    expect(printed).toMatchObject({ latentSteps: 3, images: [{ tokenGrid: [12, 16] }], generatedTokens: 6 });
    const [tiles, whole] = printed.images[0].views;
    expect(tiles).toEqual({ name: 'tiles', grid: [12, 16], start: 0, tile: [4, 4] });
    expect(whole).toEqual({ name: 'whole', grid: [4, 4], start: 192, tile: [4, 4] });
    const picked = printed.steps.flatMap((step: { picked: object[] }) => step.picked);
    expect(new Set(picked.map(({ token }: { token: number }) => token)).size).toBe(27);
    for (const { token, view, row, column } of picked) {
      const at = token - (view === 'whole' ? 192 : 0);
      const tile = Math.floor(at / 16);
      const wanted = [Math.floor(tile / 4) * 4 + Math.floor((at % 16) / 4), (tile % 4) * 4 + (at % 4)];
      expect([view, row, column]).toEqual(view === 'whole' ? ['whole', at >> 2, at % 4] : ['tiles', ...wanted]);
    }
    const { width, height } = await sharp(printed.trace.image).metadata();
    expect([width! > 1500, height! > 2400]).toEqual([true, true]);
  });

  it('asks as its makers meant, one tile and other model types included', async () => {
    const plain = await json(...ask(), ...quick, '--image-size', '32x32');
    expect(plain).toMatchObject({ latentSteps: 0, images: [{ tokenGrid: [4, 4] }], generatedTokens: 6 });
    const older = join(folder, 'older');
    writeTinySmolVlm(older, { modelType: 'idefics3' });
    const same = await json(...ask(), ...quick, '--image-size', '32x32', '--model', older);
    expect(same.tokens).toEqual(plain.tokens);
  });

  it('says that there is no official profile, and which image sizes there are', async () => {
    const failed = (...more: string[]) => ivtlr(...ask(), ...quick, ...more).catch((error) => error);
    expect(await failed('--profile', 'official')).toMatchObject({
      code: 2,
      stderr:
        'error: there is no profile official for smolvlm, which the official IVT-LR code does not know: use consistent or plain\n',
    });
    expect((await failed('--image-size', '40x32')).stderr).toContain('both sides must be multiples of 32');
    expect((await failed('--question', 'a <row_1_col_1> b')).stderr).toContain(
      'spells <row_1_col_1>, a token that only',
    );
  });
});

it('ivtlr data inspect shows markers as prompt, and both views with their grids', async () => {
  const png = join(folder, 'inspect.png');
  const inspect = ['data', 'inspect', 'm3cot', '--data', data, '--model', model, '--row', '1', '--png', png];
  const sample = await json(...inspect, '--stage', '2', '--image-size', '64x32');
  expect(sample.profile).toBe('consistent');
  expect(sample.images[0]).toMatchObject({ width: 45, height: 67, tokenGrid: [4, 8] });
  const runs = sample.runs.map(({ kind, tokens, text }: { kind: string; tokens: number; text: string }) =>
    kind === 'image' ? tokens : text,
  );
  expect(runs.slice(0, 7)).toEqual([
    '<|im_start|>User:<fake_token_around_image><row_1_col_1>',
    16,
    '<fake_token_around_image><row_1_col_2>',
    16,
    '\n\n<fake_token_around_image><global-img>',
    16,
    '<fake_token_around_image>[Question]:{Which figure?}\n[Options]:\n(A).{disk}\n(B).{box}\nAnswer:\n<end_of_utterance>\nAssistant:',
  ]);
  const { prompt, image, latents, trained, total } = sample.tokens;
  expect([image, prompt + image + latents + trained]).toEqual([48, total]);
  const { width, height } = await sharp(png).metadata();
  expect([width, height]).toEqual([384, 192 + 24 + 192]);
});

const train = (out: string, ...more: string[]) => startTraining(folder, out, ...more);
const steps = (out: string) => trainingSteps(folder, out);

describe('ivtlr train', () => {
  it('trains adapters of the decoder alone, and after a kill goes on to the same ones', async () => {
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
    expect(steps('whole')).toHaveLength(9);
    const stored = (name: string) => JSON.parse(readFileSync(join(folder, 'whole', 'model', name), 'utf8'));
    const settings = stored('ivtlr.json');
    expect(settings).toMatchObject({
      task: 'm3cot',
      profile: 'consistent',
      imageSize: '64x32',
      latents: 2,
      patches: 5,
    });
    // The vision tower's q_proj and v_proj have none, and PEFT is told.
    const vision = ['q_proj', 'v_proj'].map((layer) => `model.vision_model.encoder.layers.0.self_attn.${layer}`);
    expect(stored('adapter_config.json').exclude_modules.sort()).toEqual(vision);
    const opened = openModelFolder(join(folder, 'whole', 'model'), { mergeAdapters: false });
    const adapted = [...opened.model.module.namedParameters().keys()].filter((name) => name.includes('lora_A'));
    expect(adapted).toHaveLength(6);
    expect(adapted.every((name) => name.startsWith('model.text_model.layers.'))).toBe(true);
    opened.model.module.dispose();
  });

  it('trains all weights, through the latent steps too', async () => {
    const flags = ['lora=null', 'activationCheckpointing=false', 'numEpochs=2', 'optimizer.lr=1e-2'];
    const through = ['latent.latentGradient=through', 'latent.onExhausted=fewer', 'latent.patches=40'];
    const { ended } = train('full', ...[...flags, ...through].flatMap((flag) => ['--set', flag]));
    const { code, stderr } = await ended;
    expect(code, stderr).toBe(0);
    const losses = steps('full').map((entry) => (entry.kind === 'step' ? entry.loss : Number.NaN));
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const before = openModelFolder(model);
    const after = openModelFolder(join(folder, 'full', 'model'));
    const old = before.model.module.namedParameters();
    const moved = [...after.model.module.namedParameters()].filter(
      ([name, trained]) =>
        !scope(
          () =>
            trained.shape.join() === old.get(name)!.shape.join() && Boolean(trained.eq(old.get(name)!).all().item()),
        ),
    );
    for (const part of ['vision_model.encoder', 'connector', 'text_model'])
      expect(
        moved.some(([name]) => name.includes(part)),
        part,
      ).toBe(true);
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

  it('ivtlr ablate and ivtlr analyze', async () => {
    const report = await json('ablate', ...trained(), ...quick, '--max-latents', '2');
    expect(report.results.map(({ key }: { key: string }) => key)).toContain('random-patches');
    const out = join(folder, 'analysis');
    await ivtlr('analyze', ...trained(), ...quick, '--out', out);
    const { latent } = JSON.parse(readFileSync(join(out, 'analysis.json'), 'utf8')).models[0];
    expect(latent).toHaveLength(2);
    expect(latent[1].coverage.mean).toBeCloseTo(10 / 48, 6);
  });
});
