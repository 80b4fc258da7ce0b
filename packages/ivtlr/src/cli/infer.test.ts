import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { liveTensorCount, scope } from '@ivtlr/torch';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { createModel, saveModel } from '../models/registry.ts';
import { dominoesTokens, writeDominoesTokenizer } from '../tasks/dominoes/vocabulary.ts';
import { run } from './main.ts';

let folder = '';
let model = '';
let image = '';

/** Random weights: what is said is nonsense, but every part of the way is real. */
function makeModel(path: string): void {
  mkdirSync(path);
  writeDominoesTokenizer(path);
  const tokens = dominoesTokens();
  const config = {
    model_type: 'qwen2_vl',
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000,
    rope_scaling: { type: 'mrope', mrope_section: [2, 3, 3] },
    max_position_embeddings: 256,
    tie_word_embeddings: false,
    vocab_size: tokens.length,
    eos_token_id: tokens.indexOf('<|endoftext|>'),
    vision_start_token_id: tokens.indexOf('<|vision_start|>'),
    vision_end_token_id: tokens.indexOf('<|vision_end|>'),
    image_token_id: tokens.indexOf('<|image_pad|>'),
    vision_config: {
      depth: 1,
      embed_dim: 32,
      num_heads: 2,
      mlp_ratio: 2,
      hidden_size: 32,
      in_channels: 3,
      patch_size: 14,
      spatial_merge_size: 2,
      temporal_patch_size: 2,
    },
  };
  scope(() => saveModel(createModel(config, 3), config, path));
  const settings = { profile: 'consistent', task: 'dominoes', latents: 2, patches: 3 };
  writeFileSync(join(path, 'ivtlr.json'), JSON.stringify(settings));
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'infer-'));
  model = join(folder, 'model');
  image = join(folder, 'image.png');
  makeModel(model);
  const pixels = new Uint8Array(112 * 84 * 3).map((_, index) => (index * 7) % 256);
  await sharp(pixels, { raw: { width: 112, height: 84, channels: 3 } })
    .png()
    .toFile(image);
});

afterAll(() => rmSync(folder, { recursive: true }));

let out = '';
let err = '';
beforeAll(() => {
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += text;
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    err += text;
    return true;
  });
});
afterEach(() => {
  out = '';
  err = '';
  process.exitCode = undefined;
});

const ask = (...more: string[]) => {
  const asked = more.includes('--image') ? [] : ['--image', image];
  return run(['infer', '--model', model, ...asked, '--question', 'Start at red', '--max-new-tokens', '6', ...more]);
};

describe('ivtlr infer', () => {
  it('says that the task a model was trained on is not known', async () => {
    const other = join(folder, 'other-task');
    cpSync(model, other, { recursive: true });
    writeFileSync(join(other, 'ivtlr.json'), JSON.stringify({ profile: 'consistent', task: 'charades', latents: 1 }));
    const note = /^note: the model was trained on the task charades, which is not known here/;
    expect(await ask('--model', other)).toBe(0);
    expect(err).toMatch(note);
    err = '';
    expect(await ask('--model', other, '--task', 'scienceqa')).toBe(0);
    expect(err).not.toMatch(note);
  });

  it('says only of a folder without ivtlr.json that it has none', async () => {
    const without = join(folder, 'without-settings');
    cpSync(model, without, { recursive: true });
    rmSync(join(without, 'ivtlr.json'), { force: true });
    const asked = ['--profile', 'plain', '--latents', '1'];
    expect(await ask('--model', without, ...asked)).toBe(0);
    expect(err).toMatch(/^note: .*without-settings has no ivtlr\.json/);
    err = '';
    writeFileSync(join(without, 'ivtlr.json'), JSON.stringify({ profile: 'consistent', latents: 1 }));
    expect(await ask('--model', without, ...asked)).toBe(0);
    expect(err).not.toMatch(/ivtlr\.json/);
  });

  it('takes damaged folders for mistakes of the user', async () => {
    const damaged = join(folder, 'damaged');
    cpSync(model, damaged, { recursive: true });
    writeFileSync(join(damaged, 'generation_config.json'), 'null');
    expect(await ask('--model', damaged)).toBe(2);
    expect(err).toBe(`error: ${join(damaged, 'generation_config.json')} should hold an object\n`);
    expect(out).toBe('');
  });

  it('streams the answer to stdout and times to stderr', async () => {
    expect(await ask('--choices', 'blue', 'pink')).toBe(0);
    expect(out.trim().length).toBeGreaterThan(0);
    expect(err).toMatch(/^2 latent steps \+ [1-6] tokens; model .*writing .* s\n$/);
  });

  it('prints the same as JSON, and writes the trace', async () => {
    expect(await ask()).toBe(0);
    const streamed = out.trim();
    out = '';
    const traceFolder = join(folder, 'deep', 'trace');
    expect(await ask('--json', '--trace', traceFolder)).toBe(0);
    const printed = JSON.parse(out);
    expect(printed.answer.trim()).toBe(streamed);
    expect(printed).toMatchObject({ latentSteps: 2, images: [{ tokenGrid: [3, 4] }], predicted: null });
    expect(printed.autoregressiveSteps).toBe(2 + printed.generatedTokens);
    expect(printed.steps[1].picked).toHaveLength(3);
    const { token, row, column, score } = printed.steps[1].picked[0];
    expect(token).toBe(row * 4 + column);
    expect(printed.steps[1].scores[token]).toBe(score);

    const stored = JSON.parse(readFileSync(printed.trace.numbers, 'utf8'));
    expect(stored.steps).toEqual(printed.steps);
    expect(stored.images).toEqual([{ name: image, width: 112, height: 84, tokenGrid: [3, 4] }]);
    const drawn = await sharp(join(traceFolder, 'trace.png')).metadata();
    expect(drawn.width).toBeGreaterThan(3 * 640);
  });

  it('follows the flags for latent steps and ablations', async () => {
    expect(await ask('--json', '--latents', '3', '--patches', '2')).toBe(0);
    expect(JSON.parse(out).steps.map((step: { picked: unknown[] }) => step.picked.length)).toEqual([2, 2, 2]);
    out = '';
    expect(await ask('--json', '--ablation', 'zero-latents')).toBe(0);
    expect(JSON.parse(out).latentSteps).toBe(0);
  });

  it('draws tokens where it is told to, the same for the same seed', async () => {
    const printed = async (...more: string[]) => {
      out = '';
      expect(await ask('--json', ...more), err).toBe(0);
      return JSON.parse(out);
    };
    const greedy = await printed();
    expect(greedy.sampling).toBeUndefined();
    const hot = ['--temperature', '5', '--top-p', '0.99'];
    const drawn = await printed(...hot, '--seed', '3');
    expect(drawn).toMatchObject({ sampling: { temperature: 5, topP: 0.99 }, seed: 3 });
    expect((await printed(...hot, '--seed', '3')).tokens).toEqual(drawn.tokens);
    expect((await printed(...hot, '--seed', '4')).tokens).not.toEqual(drawn.tokens);
    for (const flags of [
      ['--temperature', '0'],
      ['--temperature', '2', '--top-k', '1'],
      ['--temperature', '2', '--top-p', '0'],
      ['--temperature', '2', '--min-p', '1'],
    ])
      expect((await printed(...flags)).tokens).toEqual(greedy.tokens);
    expect((await printed('--repetition-penalty', '50')).tokens).not.toEqual(greedy.tokens);
  });

  it('ends before a stop text, of which there may be several', async () => {
    expect(await ask('--json')).toBe(0);
    const { answer, finishReason, stopString } = JSON.parse(out);
    expect([finishReason, stopString]).toEqual(['length', null]);
    const [stop, later] = [answer.slice(6, 8), answer.slice(12, 15)];
    out = '';
    expect(await ask('--json', '--stop', later, '--stop', stop)).toBe(0);
    const wanted = answer.slice(0, answer.indexOf(stop));
    expect(JSON.parse(out)).toMatchObject({ answer: wanted, finishReason: 'stop', stopString: stop });
    out = '';
    expect(await ask('--stop', stop)).toBe(0);
    expect(out).toBe(`${wanted}\n`);
  });

  it('says in one line what is wrong, with exit code 2', async () => {
    const broken = join(folder, 'broken.png');
    writeFileSync(broken, readFileSync(image).subarray(0, 400));
    const empty = join(folder, 'empty.png');
    writeFileSync(empty, '');
    const cases: [string[], RegExp][] = [
      [['--image', join(folder, 'none.png')], /^error: there is no image .*none\.png\n$/],
      [['--image', folder], /^error: .* is a folder; an image file is needed\n$/],
      [['--image', '/dev/zero'], /^error: \/dev\/zero is a pipe or a device; an image file is needed\n$/],
      [['--image', join(folder, 'a\x1b[31m\nb.png')], /^error: there is no image .*a\\x1b\[31m\nb\.png\n$/],
      [['--image', broken], /^error: .*broken\.png: the PNG image cannot be decoded: it is truncated or corrupt/],
      [['--image', empty], /^error: .*empty\.png: the file is empty; JPEG, PNG, WebP, GIF, TIFF and AVIF are read\n$/],
      [['--model', join(folder, 'none')], /^error: .*none/],
      [['--model', folder], /^error: .*config\.json/],
      [['--question', ' '], /^error: --question is empty/],
      [['--task', 'chess'], /^error: there is no task chess; known tasks are/],
      [['--device', 'tpu'], /^error: --device tpu: known are auto, cpu/],
      [['--latents', 'two'], /It should be a whole number/],
      [['--ablation', 'everything'], /Allowed choices are/],
      [['--temperature', '-1'], /It should be a number from 0 to 100/],
      [['--temperature', 'warm'], /It should be a number from 0 to 100/],
      [['--top-p', '1.5', '--temperature', '1'], /It should be a number from 0 to 1\./],
      [['--top-k', '2.5', '--temperature', '1'], /It should be a whole number from 0/],
      [['--top-p', '0.9'], /^error: --top-k, --top-p and --min-p say among which .* give a --temperature above 0/],
      [['--stop', ''], /--stop/],
    ];
    for (const [flags, message] of cases) {
      err = '';
      expect(await ask(...flags)).toBe(2);
      expect(err).toMatch(message);
    }
  });

  it('frees every tensor but the model', async () => {
    const { answer } = await import('../engine/ask.ts');
    const { openModelFolder } = await import('../engine/loaded-model.ts');
    const opened = openModelFolder(model);
    const raw = { kind: 'encoded', bytes: readFileSync(image), name: 'image' } as const;
    const events = () => answer(opened, { images: [raw], question: 'Start at red', choices: [] }, { maxNewTokens: 4 });
    for await (const _ of events()); // The model keeps tables it makes at first use.
    const before = liveTensorCount();
    for await (const _ of events());
    expect(liveTensorCount()).toBe(before);
    for await (const event of events()) if (event.type === 'latent-step') break; // A caller may stop early.
    expect(liveTensorCount()).toBe(before);
  });
});
