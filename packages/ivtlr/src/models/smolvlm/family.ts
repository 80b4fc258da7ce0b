/** SmolVLM and SmolVLM2 as a Family. */
import type { Family } from '../family.ts';
import { parseSmolVlmConfig } from './config.ts';
import { SmolVlmInputs } from './inputs.ts';
import { SmolVlm } from './model.ts';
import { requireMarkers, smolVlmPrompts } from './prompts.ts';
import { IMAGE_TOKEN } from './written-image.ts';

export const smolVlm: Family = {
  modelType: 'smolvlm',
  olderModelTypes: ['idefics3'],
  backbone: (json, source) => {
    const config = parseSmolVlmConfig(json, source);
    return { make: (options) => new SmolVlm(config, options), tied: config.tied };
  },
  storedName: (name) => name,
  inputs: (folder, { imageSize, resize }) => {
    const [width, height] = imageSize && imageSize !== 'native' ? imageSize.split('x').map(Number) : [];
    return SmolVlmInputs.fromFolder(folder, {
      ...(width && height && { fixedSize: { width, height } }),
      ...(resize && { resize }),
    });
  },
  prompts: (profile, _task, folder, tokenizer) => {
    requireMarkers(folder, tokenizer);
    return smolVlmPrompts(profile);
  },
  official: false,
  imageToken: IMAGE_TOKEN,
  maxTokens: 3400,
  patches: 32,
  positions: 'sequential',
};
