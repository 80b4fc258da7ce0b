/** Qwen3-VL (dense) as a Family. Tokenizer, prompts, image processor and weight names are Qwen2-VL's; the folder brings its own chat template. */
import type { Family } from '../family.ts';
import { qwen2Vl } from '../qwen2-vl/family.ts';
import { inputOptions, Qwen2VlInputs } from '../qwen2-vl/inputs.ts';
import { parseQwen3VLConfig, parseVisionConfig } from './config.ts';
import { Qwen3VL } from './model.ts';

export const qwen3Vl: Family = {
  ...qwen2Vl,
  modelType: 'qwen3_vl',
  backbone: (json, source) => {
    const config = parseQwen3VLConfig(json, source);
    return { make: (options) => new Qwen3VL(config, options), tied: config.tied };
  },
  inputs: (folder, settings) => Qwen2VlInputs.fromFolder(folder, inputOptions(settings), parseVisionConfig),
  official: false,
};
