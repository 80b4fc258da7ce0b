/** A Chameleon folder of some ten thousand random weights, with a tokenizer, for tests of what stands on a folder. */
import fs from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type DType, scope } from '@ivtlr/torch';
import { createModel, saveModel } from '../packages/ivtlr/src/models/registry.ts';

const tokenizerFolder = fileURLToPath(new URL('parity/goldens/chameleon-tokenizer', import.meta.url));

export interface TinyChameleonOptions {
  /** Pixels of a image's side. */
  side?: number;
  /** Levels of the image tokenizer; every one but the first halves the image. */
  levels?: number;
  /** Contents of ivtlr.json; without it there is none. */
  settings?: Record<string, unknown>;
  dtype?: DType;
  seed?: number;
}

/** Writes it into a new folder. Default: 48x48 pixels, 6 x 6 image tokens. */
export function writeTinyChameleon(folder: string, options: TinyChameleonOptions = {}): void {
  const { side = 48, levels = 4, settings, dtype = 'float32', seed = 5 } = options;
  fs.cpSync(tokenizerFolder, folder, { recursive: true });
  const { model } = JSON.parse(fs.readFileSync(join(folder, 'tokenizer.json'), 'utf8'));
  const vocabulary = Object.entries(model.vocab as Record<string, number>);
  const codes = vocabulary.filter(([name]) => name.startsWith('IMGIMG'));
  const config = {
    model_type: 'chameleon',
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    // As in the published models, there are no rows for the latent tokens.
    vocab_size: vocabulary.length,
    tie_word_embeddings: false,
    bos_token_id: 0,
    pad_token_id: 1,
    eos_token_id: 2,
    vocabulary_map: Object.fromEntries([...codes, ['<image>', model.vocab['<image>']]]),
    vq_config: {
      embed_dim: 16,
      num_embeddings: codes.length,
      latent_channels: 16,
      base_channels: 32,
      channel_multiplier: new Array<number>(levels).fill(1),
      num_res_blocks: 1,
      resolution: side,
    },
  };
  const preprocessor = { size: { shortest_edge: side }, crop_size: { height: side, width: side }, resample: 1 };
  const write = (name: string, value: unknown) => fs.writeFileSync(join(folder, name), JSON.stringify(value));
  write('preprocessor_config.json', preprocessor);
  if (settings) write('ivtlr.json', settings);
  scope(() => {
    const made = createModel(config, seed, { dtype });
    saveModel(made, config, folder);
    made.module.dispose();
  });
}
