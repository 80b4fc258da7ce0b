/** Chameleon as a Family. */
import { UserError } from '../../errors.ts';
import type { Family } from '../family.ts';
import { parseChameleonConfig } from './config.ts';
import { ChameleonInputs } from './inputs.ts';
import { Chameleon, storedName } from './model.ts';
import { chameleonPrompts, folderTokens, IMAGE_TOKEN } from './prompts.ts';

export const chameleon: Family = {
  modelType: 'chameleon',
  backbone: (json, source) => {
    const config = parseChameleonConfig(json, source);
    return { make: (options) => new Chameleon(config, options), tied: config.tied };
  },
  storedName,
  inputs: (folder, { profile, imageSize, resize }) => {
    const inputs = ChameleonInputs.fromFolder(folder, resize ?? (profile === 'official' ? 'pillow-11' : 'pillow-13'));
    if (imageSize && imageSize !== 'native' && imageSize !== inputs.imageSize) {
      throw new UserError(
        `image size ${imageSize}: ${folder} is a Chameleon model, which reads every image at ${inputs.imageSize}`,
      );
    }
    return inputs;
  },
  prompts: (profile, task, folder, tokenizer) => chameleonPrompts(profile, task, folderTokens(folder, tokenizer)),
  official: true,
  imageToken: IMAGE_TOKEN,
  maxTokens: 1400,
  patches: 64,
  positions: 'sequential',
};
