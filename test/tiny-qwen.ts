/** A Qwen vision-language folder of some ten thousand random weights, with a byte-level tokenizer, for tests of what stands on a folder. */
import fs from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { scope } from '@ivtlr/torch';
import { createModel, saveModel } from '../packages/ivtlr/src/models/registry.ts';

const goldens = fileURLToPath(new URL('parity/goldens', import.meta.url));

/** Entries of the tokenizer that texts need; rows of the embedding beyond them are spare. */
const ROWS = 320;

/** A decoder and the ids of the tokenizer, for a config.json in the hub's flat form. */
const DECODER = {
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 2048,
  vocab_size: ROWS,
  tie_word_embeddings: true,
  rope_scaling: { type: 'mrope', mrope_section: [2, 3, 3] },
  eos_token_id: 312,
  vision_start_token_id: 313,
  vision_end_token_id: 314,
  image_token_id: 315,
  video_token_id: 316,
};

export const QWEN25_VL = {
  model_type: 'qwen2_5_vl',
  vision_config: {
    ...{ depth: 2, hidden_size: 16, intermediate_size: 20, num_heads: 2, out_hidden_size: 32 },
    ...{ window_size: 56, fullatt_block_indexes: [1], in_chans: 3 },
  },
};

export const QWEN2_VL = {
  model_type: 'qwen2_vl',
  vision_config: { depth: 2, embed_dim: 16, hidden_size: 32, num_heads: 2, mlp_ratio: 2, in_chans: 3 },
};

/** Features of two of its blocks go into the decoder. */
export const QWEN3_VL = {
  model_type: 'qwen3_vl',
  head_dim: 16,
  vision_config: {
    ...{ depth: 3, hidden_size: 16, intermediate_size: 20, num_heads: 2, out_hidden_size: 32 },
    ...{ num_position_embeddings: 16, patch_size: 14, deepstack_visual_indexes: [0, 2] },
  },
};

/** Writes it into a new folder. @param family its `model_type`, `vision_config` and whatever the decoder has otherwise */
export function writeTinyQwen(folder: string, family: Record<string, unknown>, seed = 5): void {
  fs.mkdirSync(folder, { recursive: true });
  const tokenizer = join(goldens, 'official-checkpoint', 'base-untied', 'tokenizer.json');
  fs.copyFileSync(tokenizer, join(folder, 'tokenizer.json'));
  const { chat_template: template } = JSON.parse(fs.readFileSync(join(goldens, 'tokens.json'), 'utf8'));
  fs.writeFileSync(join(folder, 'chat_template.jinja'), template);
  fs.writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ eos_token: '<|im_end|>' }));
  const config = { ...DECODER, ...family };
  scope(() => {
    const made = createModel(config, seed);
    saveModel(made, config, folder);
    made.module.dispose();
  });
}
