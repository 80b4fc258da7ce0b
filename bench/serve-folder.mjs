// node bench/serve-folder.mjs FOLDER: a model folder of Qwen2-VL-2B's shape in bfloat16 with small random weights and the real vocabulary (4.4 GB).
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { saveModel } from '../packages/ivtlr/dist/models/registry.js';
import { makeCase } from './inference-shapes.mjs';
import { randomModel } from './random-model.mjs';
import { here } from './run.mjs';

const folder = process.argv[2];
fs.mkdirSync(folder, { recursive: true });
const goldens = JSON.parse(fs.readFileSync(here('../test/parity/goldens/tokens.json'), 'utf8'));
const { name, file } = goldens.package;
let source = path.dirname(createRequire(import.meta.url).resolve(name));
while (!fs.existsSync(path.join(source, file))) source = path.dirname(source);
const tokenizer = JSON.parse(fs.readFileSync(path.join(source, file), 'utf8'));
tokenizer.added_tokens = tokenizer.added_tokens.filter(({ id }) => id < goldens.drop_added_from);
const idOf = (text) => tokenizer.added_tokens.find(({ content }) => content === text).id;

const testCase = makeCase('qwen2-vl', '2b', 2);
const config = {
  ...testCase.config,
  image_token_id: idOf('<|image_pad|>'),
  video_token_id: idOf('<|video_pad|>'),
  vision_start_token_id: idOf('<|vision_start|>'),
  vision_end_token_id: idOf('<|vision_end|>'),
  eos_token_id: idOf('<|im_end|>'),
  bos_token_id: idOf('<|endoftext|>'),
};
const write = (name, value) =>
  fs.writeFileSync(path.join(folder, name), typeof value === 'string' ? value : JSON.stringify(value));
write('tokenizer.json', tokenizer);
write('tokenizer_config.json', {
  eos_token: '<|im_end|>',
  pad_token: '<|endoftext|>',
  tokenizer_class: 'Qwen2Tokenizer',
});
write('chat_template.jinja', goldens.chat_template);
write('preprocessor_config.json', {
  ...{ min_pixels: 3136, max_pixels: 1003520, patch_size: 14, temporal_patch_size: 2, merge_size: 2 },
  ...{ image_mean: [0.48145466, 0.4578275, 0.40821073], image_std: [0.26862954, 0.26130258, 0.27577711] },
  ...{ image_processor_type: 'Qwen2VLImageProcessor', processor_class: 'Qwen2VLProcessor' },
});
write('ivtlr.json', { task: null, profile: 'plain', latents: 3, patches: 32, positions: 'mrope' });
const model = randomModel({ config, dtype: 'bfloat16' });
saveModel(model, config, folder);
