/** Qwen2-VL as a Family. */
import type { Family } from '../family.ts';
import { parseQwen2VLConfig } from './config.ts';
import { inputOptions, Qwen2VlInputs } from './inputs.ts';
import { originalName, Qwen2VL } from './model.ts';
import { qwen2VlPrompts } from './prompts.ts';

export const qwen2Vl: Family = {
  modelType: 'qwen2_vl',
  backbone: (json, source) => {
    const config = parseQwen2VLConfig(json, source);
    return { make: (options) => new Qwen2VL(config, options), tied: config.tied };
  },
  storedName: originalName,
  inputs: (folder, settings) => Qwen2VlInputs.fromFolder(folder, inputOptions(settings)),
  prompts: qwen2VlPrompts,
  official: true,
  imageToken: '<|image_pad|>',
  maxTokens: 3400,
  patches: 32,
  positions: 'mrope',
};
