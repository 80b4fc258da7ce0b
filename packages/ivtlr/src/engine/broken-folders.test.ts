/** Model folders whose files are damaged or do not belong together: one sentence each, before or at the first question. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { liveTensorCount, scope } from '@ivtlr/torch';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { writeTinyChameleon } from '../../../../test/tiny-chameleon.ts';
import { UserError } from '../errors.ts';
import { answer } from './ask.ts';
import { openModelFolder } from './loaded-model.ts';

const bundled = fileURLToPath(new URL('../../models/dominoes', import.meta.url));
const baseline = liveTensorCount();
let folder: string;
beforeEach(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'ivtlr-broken-'));
});
afterEach(() => {
  fs.rmSync(folder, { recursive: true, force: true });
  expect(liveTensorCount()).toBe(baseline);
});

const image = { kind: 'rgb', width: 84, height: 56, data: new Uint8Array(84 * 56 * 3).fill(90) } as const;

async function ask(): Promise<string> {
  const opened = openModelFolder(folder);
  try {
    let text: string | undefined;
    const question = { images: [image], question: 'which?', choices: [] };
    for await (const event of answer(opened, question, { maxNewTokens: 2 }))
      if (event.type === 'end') text = event.answer.text;
    return text!;
  } finally {
    opened.model.module.dispose();
  }
}

const link = (file: string, target: string) => () => {
  fs.rmSync(join(folder, file), { force: true });
  fs.symlinkSync(target, join(folder, file));
};
type Json = Record<string, unknown>;
const whole = (file: string, content: string) => () => fs.writeFileSync(join(folder, file), content);
const change = (file: string, changes: Json) => () => {
  const path = join(folder, file);
  const json = fs.existsSync(path) ? (JSON.parse(fs.readFileSync(path, 'utf8')) as Json) : {};
  fs.writeFileSync(path, JSON.stringify({ ...json, ...changes }));
};
const both = (first: () => void, second: () => void) => () => {
  first();
  second();
};
const vision = { depth: 2, embed_dim: 64, num_heads: 2, hidden_size: 128 };
const withoutEos = change('tokenizer_config.json', { eos_token: undefined });

const BROKEN: [string, () => void, RegExp][] = [
  [
    'type constructor',
    change('config.json', { model_type: 'constructor' }),
    /config\.json: model_type is "constructor"/,
  ],
  ['type __proto__', change('config.json', { model_type: '__proto__' }), /config\.json: model_type is "__proto__"/],
  ['a config that is null', whole('config.json', 'null'), /config\.json: model_type is missing/],
  [
    'another image token',
    change('config.json', { image_token_id: 3 }),
    /gives 48 for <\|image_pad\|>, but .* id is 3$/,
  ],
  [
    'no image token',
    change('config.json', { image_token_id: undefined }),
    /image_token_id is 151655, but vocab_size is 53/,
  ],
  [
    'heads of the tower',
    change('config.json', { vision_config: { ...vision, num_heads: 3 } }),
    /vision_config\.embed_dim 64/,
  ],
  [
    'a tower of other patches',
    change('config.json', { vision_config: { ...vision, patch_size: 7 } }),
    /do not fit config\.json: visual\.patch_embed/,
  ],
  [
    'other patches',
    change('preprocessor_config.json', { patch_size: 7 }),
    /preprocessor_config\.json: patch_size is 7, but vision_config\.patch_size in .* is 14$/,
  ],
  [
    'another merge',
    change('preprocessor_config.json', { merge_size: 4 }),
    /merge_size is 4, but vision_config\.spatial_merge_size in .* is 2$/,
  ],
  [
    'other frames',
    change('preprocessor_config.json', { temporal_patch_size: 1 }),
    /temporal_patch_size is 1, but .* is 2$/,
  ],
  [
    'a size of two sides',
    change('preprocessor_config.json', { size: { height: 56, width: 56 } }),
    /preprocessor_config\.json is not usable:[\s\S]*only shortest_edge and longest_edge are supported[\s\S]*size/,
  ],
  [
    'a crop',
    change('preprocessor_config.json', { do_center_crop: true }),
    /only false is supported[\s\S]*do_center_crop/,
  ],
  [
    'colours left alone',
    change('preprocessor_config.json', { do_convert_rgb: false }),
    /only true is supported[\s\S]*do_convert_rgb/,
  ],
  [
    'no rescaling',
    change('preprocessor_config.json', { do_rescale: false }),
    /only true is supported[\s\S]*do_rescale/,
  ],
  [
    'crossed limits',
    change('preprocessor_config.json', { min_pixels: 1e6 }),
    /min_pixels 1000000 is larger than max_pixels 50176/,
  ],
  [
    'a huge limit',
    change('preprocessor_config.json', { min_pixels: 1e8, max_pixels: 1e9 }),
    /Too big[\s\S]*min_pixels/,
  ],
  ['a preprocessor that is a list', whole('preprocessor_config.json', '[]'), /preprocessor_config\.json is not usable/],
  [
    'a processor that is null',
    whole('processor_config.json', 'null'),
    /processor_config\.json is not usable:[\s\S]*should be an object/,
  ],
  [
    'a generation config that is null',
    whole('generation_config.json', 'null'),
    /generation_config\.json should hold an object/,
  ],
  [
    'a generation config of text',
    whole('generation_config.json', '"x"'),
    /generation_config\.json should hold an object/,
  ],
  [
    'an eos of text',
    change('generation_config.json', { eos_token_id: 'a' }),
    /eos_token_id should be a token id below 53/,
  ],
  [
    'an eos beyond the vocabulary',
    change('generation_config.json', { eos_token_id: [45, 53] }),
    /eos_token_id should be a token id below 53/,
  ],
  [
    'a negative eos',
    change('generation_config.json', { eos_token_id: -1 }),
    /eos_token_id should be a token id below 53/,
  ],
  [
    'an eos that the tokenizer lacks',
    both(withoutEos, change('config.json', { eos_token_id: 1e6 })),
    /config\.json: eos_token_id is 1000000, which is no id of tokenizer\.json/,
  ],
  [
    'a tokenizer config that is null',
    whole('tokenizer_config.json', 'null'),
    /tokenizer_config\.json should hold an object/,
  ],
  [
    'a template without image',
    whole('chat_template.json', '{"chat_template":"hello"}'),
    /chat template in .*chat_template\.json should write <\|image_pad\|> once for an image, but does so 0 times/,
  ],
  [
    'a template with two',
    whole('chat_template.json', '{"chat_template":"<|image_pad|><|image_pad|>"}'),
    /does so 2 times/,
  ],
  ['settings that are a list', whole('ivtlr.json', '[]'), /ivtlr\.json is not usable:[\s\S]*should be an object/],
  [
    'settings that are a link to nothing',
    link('ivtlr.json', 'none'),
    /reasoning settings .*ivtlr\.json is a link to a file that is not there/,
  ],
  ['settings that link to themselves', link('ivtlr.json', 'ivtlr.json'), /cannot read reasoning settings .*ELOOP/],
  ['a tokenizer without end', link('tokenizer.json', '/dev/zero'), /tokenizer\.json is a folder, a pipe or a device$/],
  [
    'end tokens that are a link to nothing',
    link('generation_config.json', 'none'),
    /generation_config\.json is a link to a file that is not there/,
  ],
  ['settings that are null', whole('ivtlr.json', 'null'), /ivtlr\.json is not usable:[\s\S]*should be an object/],
  ['settings that are text', whole('ivtlr.json', '"latents"'), /ivtlr\.json is not usable:[\s\S]*should be an object/],
  [
    '10^9 latent steps',
    change('ivtlr.json', { latents: 1e9 }),
    /ivtlr\.json is not usable:[\s\S]*<=1000[\s\S]*latents/,
  ],
  ['10^9 patches', change('ivtlr.json', { patches: 1e9 }), /ivtlr\.json is not usable:[\s\S]*<=10000[\s\S]*patches/],
  [
    'an empty task',
    change('ivtlr.json', { task: '' }),
    /ivtlr\.json is not usable:[\s\S]*letters, digits, - and _[\s\S]*task/,
  ],
];

test.each(BROKEN)('%s is said', async (_, damage, message) => {
  fs.cpSync(bundled, folder, { recursive: true });
  damage();
  const error = await ask().then(
    () => null,
    (caught: unknown) => caught as Error,
  );
  expect(error).toBeInstanceOf(UserError);
  expect(error!.message).toMatch(message);
  expect(error!.message).toContain(folder);
});

test.each<[string, () => void]>([
  ['nothing changed', () => {}],
  [
    'keys of newer files that hold null',
    change('preprocessor_config.json', {
      do_center_crop: null,
      do_pad: null,
      do_convert_rgb: null,
      crop_size: null,
      size: null,
    }),
  ],
  [
    'both spellings of transformers 4.45',
    change('preprocessor_config.json', { size: { min_pixels: 784, max_pixels: 50176 } }),
  ],
  ['an eos that is null', change('generation_config.json', { eos_token_id: null })],
  ['a quantisation that is null', change('config.json', { quantization_config: null })],
])('%s: answered as ever', async (_, harmless) => {
  fs.cpSync(bundled, folder, { recursive: true });
  const wanted = await ask();
  harmless();
  expect(await ask()).toBe(wanted);
});

test.each<[string, () => void, RegExp]>([
  ['another crop', change('preprocessor_config.json', { crop_size: 41 }), /crop_size 41x41 must be multiples of 8/],
  ['a crop without end', change('preprocessor_config.json', { crop_size: 1e9 }), /not usable:[\s\S]*crop_size/],
  [
    'no crop',
    change('preprocessor_config.json', { do_center_crop: false }),
    /only true is supported[\s\S]*do_center_crop/,
  ],
  [
    'colours left alone',
    change('preprocessor_config.json', { do_convert_rgb: false }),
    /only true is supported[\s\S]*do_convert_rgb/,
  ],
  [
    'heads that do not divide',
    change('config.json', { num_attention_heads: 3 }),
    /hidden_size 32, num_attention_heads 3/,
  ],
  ['sizes without end', change('config.json', { num_hidden_layers: 1e9 }), /config\.json: num_hidden_layers: Too big/],
  [
    'quantised weights',
    change('config.json', { quantization_config: { quant_method: 'fp8' } }),
    /weights are quantised \(fp8\)/,
  ],
  [
    'a vocabulary of another size',
    change('config.json', { vocab_size: 1 << 24 }),
    /weights do not fit config\.json: .*16777216/,
  ],
])('Chameleon: %s is said', async (_, damage, message) => {
  scope(() => writeTinyChameleon(folder));
  damage();
  await expect(ask()).rejects.toThrow(UserError);
  await expect(ask()).rejects.toThrow(message);
});
