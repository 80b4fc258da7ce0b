/** Qwen2-VL as a Family. */
import type { Family } from '../family.ts';
import { parseQwen2VLConfig } from './config.ts';
import { OFFICIAL_INPUTS, Qwen2VlInputs } from './inputs.ts';
import { originalName, Qwen2VL } from './model.ts';
import { qwen2VlPrompts } from './prompts.ts';

export const qwen2Vl: Family = {
  modelType: 'qwen2_vl',
  backbone: (json, source) => {
    const config = parseQwen2VLConfig(json, source);
    return { make: (options) => new Qwen2VL(config, options), tied: config.tied };
  },
  storedName: originalName,
  inputs: (folder, { profile, imageSize, resize }) =>
    Qwen2VlInputs.fromFolder(folder, {
      ...(profile === 'official' && OFFICIAL_INPUTS),
      ...(imageSize && { fixedSize: parseImageSize(imageSize) }),
      ...(resize && { resize }),
    }),
  prompts: qwen2VlPrompts,
  imageToken: '<|image_pad|>',
  maxTokens: 3400,
  patches: 32,
  positions: 'mrope',
};

/** `native` -> undefined, `280x140` -> width and height. */
function parseImageSize(text: string): { width: number; height: number } | undefined {
  if (text === 'native') return undefined;
  const [width, height] = text.split('x').map(Number);
  return { width: width!, height: height! };
}
