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

/** Its decoder's keys are nested, its heads wider than the hidden size says, and its patches of 16x16 pixels. */
export const QWEN3_VL = {
  model_type: 'qwen3_vl',
  text_config: {
    ...{ hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1 },
    ...{ head_dim: 24, max_position_embeddings: 2048, vocab_size: ROWS },
    rope_scaling: { rope_type: 'default', mrope_interleaved: true, mrope_section: [6, 3, 3] },
  },
  vision_config: {
    ...{ depth: 2, hidden_size: 16, intermediate_size: 20, num_heads: 2, out_hidden_size: 32 },
    ...{ num_position_embeddings: 36, deepstack_visual_indexes: [0] },
  },
};

/** preprocessor_config.json that goes with it; its smallest picture has four image tokens. */
export const QWEN3_PREPROCESSOR = {
  ...{ size: { shortest_edge: 4096, longest_edge: 16777216 }, patch_size: 16, temporal_patch_size: 2, merge_size: 2 },
  ...{ image_mean: [0.5, 0.5, 0.5], image_std: [0.5, 0.5, 0.5] },
};

/**
 * Writes it into a new folder.
 * @param family its `model_type`, `vision_config` and whatever the decoder has otherwise
 * @param files in place of the chat template of Qwen2-VL, and of no preprocessor_config.json
 */
export function writeTinyQwen(
  folder: string,
  family: Record<string, unknown>,
  { seed = 5, template, preprocessor }: { seed?: number; template?: string; preprocessor?: object } = {},
): void {
  fs.mkdirSync(folder, { recursive: true });
  const tokenizer = join(goldens, 'official-checkpoint', 'base-untied', 'tokenizer.json');
  fs.copyFileSync(tokenizer, join(folder, 'tokenizer.json'));
  const { chat_template: older } = JSON.parse(fs.readFileSync(join(goldens, 'tokens.json'), 'utf8'));
  fs.writeFileSync(join(folder, 'chat_template.jinja'), template ?? older);
  if (preprocessor) fs.writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(preprocessor));
  fs.writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ eos_token: '<|im_end|>' }));
  const config = { ...DECODER, ...family };
  scope(() => {
    const made = createModel(config, seed);
    saveModel(made, config, folder);
    made.module.dispose();
  });
}

/** A tiny Qwen3-VL with a chat template that gives what the family's own gives. */
export function writeTinyQwen3(folder: string): void {
  const { template } = JSON.parse(fs.readFileSync(join(goldens, 'qwen3-prompts.json'), 'utf8'));
  writeTinyQwen(folder, QWEN3_VL, { template, preprocessor: QWEN3_PREPROCESSOR });
}
