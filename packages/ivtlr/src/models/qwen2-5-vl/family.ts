/** Qwen2.5-VL as a Family. Tokenizer, prompts, image processor and weight names are Qwen2-VL's. */
import type { Family } from '../family.ts';
import { qwen2Vl } from '../qwen2-vl/family.ts';
import { inputOptions, Qwen2VlInputs } from '../qwen2-vl/inputs.ts';
import { parseQwen25VLConfig, parseVisionConfig } from './config.ts';
import { Qwen25VL } from './model.ts';

export const qwen25Vl: Family = {
  ...qwen2Vl,
  modelType: 'qwen2_5_vl',
  backbone: (json, source) => {
    const config = parseQwen25VLConfig(json, source);
    return { make: (options) => new Qwen25VL(config, options), tied: config.tied };
  },
  inputs: (folder, settings) => Qwen2VlInputs.fromFolder(folder, inputOptions(settings), parseVisionConfig),
  official: false,
};
