/** A SmolVLM folder of some ten thousand random weights, with a tokenizer, for tests of what stands on a folder. */
import fs from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { scope } from '@ivtlr/torch';
import { createModel, saveModel } from '../packages/ivtlr/src/models/registry.ts';

const tokenizerFolder = fileURLToPath(new URL('parity/goldens/smolvlm-tokenizer', import.meta.url));

/** Writes it into a new folder: tiles of 32x32 pixels and 4 x 4 image tokens, pictures of at most 4 x 4 tiles. */
export function writeTinySmolVlm(folder: string, { modelType = 'smolvlm' } = {}): void {
  fs.cpSync(tokenizerFolder, folder, { recursive: true });
  const { added_tokens: added } = JSON.parse(fs.readFileSync(join(folder, 'tokenizer.json'), 'utf8')) as {
    added_tokens: { id: number; content: string }[];
  };
  const id = (token: string) => added.find(({ content }) => content === token)!.id;
  const config = {
    model_type: modelType,
    image_token_id: id('<image>'),
    scale_factor: 2,
    tie_word_embeddings: true,
    text_config: {
      model_type: 'llama',
      hidden_size: 32,
      intermediate_size: 48,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      max_position_embeddings: 2048,
      rms_norm_eps: 1e-5,
      vocab_size: Math.max(...added.map((token) => token.id)) + 1,
      eos_token_id: id('<end_of_utterance>'),
    },
    vision_config: {
      hidden_size: 16,
      intermediate_size: 32,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      image_size: 32,
      patch_size: 4,
    },
  };
  const write = (name: string, value: unknown) => fs.writeFileSync(join(folder, name), JSON.stringify(value));
  write('preprocessor_config.json', {
    size: { longest_edge: 128 },
    max_image_size: { longest_edge: 32 },
    resample: 1,
    do_image_splitting: true,
  });
  scope(() => {
    const made = createModel(config, 5, { dtype: 'float32' });
    saveModel(made, config, folder);
    made.module.dispose();
  });
}
