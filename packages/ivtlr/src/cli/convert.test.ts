import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { liveTensorCount, openCheckpoint, openPth, openSafetensors, scope } from '@ivtlr/torch';
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { convertOfficial } from '../convert/convert-official.ts';
import { run } from './main.ts';

// Written by real torch through PEFT: see test/parity/README.md.
const goldens = new URL('../../../../test/parity/goldens/official-checkpoint/', import.meta.url).pathname;
const pickles = new URL('../../../torch/goldens/pth/', import.meta.url).pathname;
const [shrunk, untied, tied] = ['shrunk.pth', 'base-untied', 'base-tied'].map((name) => path.join(goldens, name)) as [
  string,
  string,
  string,
];
const tiedFile = path.join(goldens, 'module-tied-bf16.pth');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'convert-'));
const out = path.join(folder, 'out');
let baseline: number;
let [printed, complained] = ['', ''];

beforeEach(() => {
  baseline = liveTensorCount();
  [printed, complained] = ['', ''];
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += text;
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    complained += text;
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
  fs.rmSync(out, { recursive: true, force: true });
  expect(fs.readdirSync(folder)).toEqual([]);
  expect(liveTensorCount()).toBe(baseline);
});
afterAll(() => fs.rmSync(folder, { recursive: true }));

const json = (name: string) => JSON.parse(fs.readFileSync(path.join(out, name), 'utf8'));

describe('ivtlr convert', () => {
  test('writes weights, configuration, tokenizer and a PEFT adapter folder', async () => {
    fs.mkdirSync(out); // an empty folder is no obstacle
    expect(await run(['convert', shrunk, out, '--base', untied, '--task', 'm3cot'])).toBe(0);
    expect(printed).toMatch(
      /out: \d+ weights in 1 file, vocabulary 320, 14 adapters of rank 8\nadapter: .*out\/adapter\n/,
    );
    expect(complained).toMatch(/converting: \d+ MiB in/);
    expect(fs.readdirSync(out).sort()).toEqual([
      'adapter',
      'config.json',
      'ivtlr.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    expect(json('config.json')).toMatchObject({ vocab_size: 320, hidden_size: 64, torch_dtype: 'float32' });
    expect(json('ivtlr.json')).toMatchObject({
      task: 'm3cot',
      profile: 'official',
      latents: 3,
      patches: 32,
      onExhausted: 'reuse',
    });
    expect(json('adapter/ivtlr.json')).toEqual(json('ivtlr.json'));
    expect(json('adapter/adapter_config.json')).toMatchObject({
      peft_type: 'LORA',
      r: 8,
      lora_alpha: 16,
      base_model_name_or_path: out,
    });
    scope(() => {
      using stored = openPth(shrunk);
      using weights = openCheckpoint(out);
      using adapter = openSafetensors(path.join(out, 'adapter/adapter_model.safetensors'));
      const hub = 'layers.1.mlp.gate_proj';
      const official = `base_causallm.base_model.model.model.${hub}`;
      const same = (a: string, b: { toNumbers(): number[] }) =>
        expect(stored.read(a).toNumbers()).toEqual(b.toNumbers());
      same(`${official}.base_layer.weight`, weights.read(`model.${hub}.weight`));
      same(
        `${official}.lora_B.default.weight`,
        adapter.read(`base_model.model.model.language_model.${hub}.lora_B.weight`),
      );
      same('embedding.weight', weights.read('model.embed_tokens.weight'));
    });
  });

  test('--merge writes one model, --alpha scales, --dtype rounds', async () => {
    expect(await run(['convert', tiedFile, out, '--base', tied, '--merge', '--alpha', '8', '--dtype', 'float16'])).toBe(
      0,
    );
    expect(printed).toMatch(/14 adapters of rank 8 merged\n$/);
    expect(fs.existsSync(path.join(out, 'adapter'))).toBe(false);
    expect(json('config.json').torch_dtype).toBe('float16');
    scope(() => {
      using stored = openPth(tiedFile);
      using weights = openCheckpoint(out);
      const official = 'module.base_causallm.base_model.model.model.language_model.layers.0.self_attn.k_proj';
      const [w, a, b] = ['base_layer', 'lora_A.default', 'lora_B.default'].map((part) =>
        stored.read(`${official}.${part}.weight`, { dtype: 'float32' }),
      );
      const wanted = w!.add(b!.matmul(a!)).to('float16');
      expect(weights.read('model.layers.0.self_attn.k_proj.weight').toNumbers()).toEqual(wanted.toNumbers());
      expect(weights.has('lm_head.weight')).toBe(false);
    });
  });

  test.each([
    [
      'a file that carries code',
      [path.join(pickles, 'code.pth')],
      untied,
      /^error: .*code\.pth: data\.pkl names "posix\.system", .*nothing was run/,
    ],
    [
      'another state dict',
      [path.join(pickles, 'module.pth')],
      untied,
      /no official IVT-LR checkpoint: the key 0\.weight/,
    ],
    ['no such file', [path.join(folder, 'none.pth')], untied, /none\.pth: cannot be read \(ENOENT\)/],
    ['no such base', [shrunk], path.join(folder, 'none'), /config of the base model not found/],
    ['another base', [shrunk], path.join(goldens, '../hf-tiny-f32'), /is .*hf-tiny-f32 the base it was trained from\?/],
    ['a wrong alpha', [shrunk, '--alpha', '0'], untied, /should be a number above 0/],
    ['an unknown task', [shrunk, '--task', 'chess'], untied, /chess/],
  ])('%s: exit code 2 and no folder', async (_, [file, ...flags], base, message) => {
    expect(await run(['convert', file!, out, '--base', base, ...flags])).toBe(2);
    expect(complained).toMatch(message);
    expect(fs.existsSync(out)).toBe(false);
  });

  test('a folder with something in it is not touched', async () => {
    fs.mkdirSync(out);
    fs.writeFileSync(path.join(out, 'mine'), '');
    expect(await run(['convert', shrunk, out, '--base', untied])).toBe(2);
    expect(complained).toMatch(/out is not empty; give a folder that does not exist yet/);
    expect(fs.readdirSync(out)).toEqual(['mine']);
  });
});

describe('convertOfficial', () => {
  test('shards stay below their size, are indexed, and hold the same', async () => {
    const names: string[] = [];
    const seen: number[] = [];
    const result = await convertOfficial({
      checkpoint: shrunk,
      base: untied,
      out,
      shardBytes: 100_000,
      onProgress({ done, total, name }) {
        names.push(name);
        seen.push(done / total);
      },
    });
    expect(result.files).toBeGreaterThan(3);
    expect(seen.at(-1)).toBe(1);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    const files = fs.readdirSync(out).filter((name) => name.startsWith('model-'));
    expect(files.length).toBe(result.files);
    scope(() => {
      using stored = openPth(shrunk);
      using weights = openCheckpoint(out);
      expect(weights.names().sort()).toEqual(names.sort());
      expect(weights.read('lm_head.weight').toNumbers()).toEqual(
        stored.read('base_causallm.base_model.model.lm_head.weight').toNumbers(),
      );
    });
    for (const name of files) expect(fs.statSync(path.join(out, name)).size).toBeLessThan(110_000 + 100_000);
  });

  test('a folder that is a file, and one that cannot be made, are named', async () => {
    const file = path.join(untied, 'config.json');
    await expect(convertOfficial({ checkpoint: shrunk, base: untied, out: file })).rejects.toThrow(
      /config\.json is a file; give a folder/,
    );
    await expect(convertOfficial({ checkpoint: shrunk, base: untied, out: '/proc/nothing/out' })).rejects.toThrow(
      /cannot make the folder \/proc\/nothing/,
    );
  });

  test('a conversion that is stopped leaves nothing', async () => {
    const stop = new AbortController();
    const onProgress = () => stop.abort();
    await expect(
      convertOfficial({ checkpoint: shrunk, base: untied, out, shardBytes: 100_000, signal: stop.signal, onProgress }),
    ).rejects.toThrow(/abort/);
    expect(fs.existsSync(out)).toBe(false);
  });

  test('a damaged tensor is found while it is read, and nothing is left', async () => {
    const bytes = fs.readFileSync(shrunk);
    using stored = openPth(shrunk);
    const wanted = scope(() => stored.read('base_causallm.base_model.model.lm_head.weight').bytes());
    const at = bytes.indexOf(wanted);
    bytes[at] = bytes[at]! ^ 1;
    const checkpoint = path.join(os.tmpdir(), `damaged-${process.pid}.pth`);
    fs.writeFileSync(checkpoint, bytes);
    await expect(convertOfficial({ checkpoint, base: untied, out })).rejects.toThrow(/lm_head\.weight" is damaged/);
    fs.rmSync(checkpoint);
    expect(fs.existsSync(out)).toBe(false);
  });
});
