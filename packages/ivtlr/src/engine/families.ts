/** What each model family adds to a folder's files, and what can be done with those files alone, without weights. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { RenderOptions } from '../data/render.ts';
import type { RawImage } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import { readJson } from '../files.ts';
import { ChameleonInputs } from '../models/chameleon/inputs.ts';
import { chameleonPrompts, folderTokens, IMAGE_TOKEN } from '../models/chameleon/prompts.ts';
import { OFFICIAL_INPUTS, Qwen2VlInputs } from '../models/qwen2-vl/inputs.ts';
import { qwen2VlPrompts } from '../models/qwen2-vl/prompts.ts';
import type { PositionKind, ProcessedImage } from '../models/types.ts';
import { type ChatTemplate, loadChatTemplate } from '../text/chat-template.ts';
import type { ProfileName, PromptProfile } from '../text/prompt.ts';
import { LATENT_TOKENS, Tokenizer } from '../text/tokenizer.ts';
import type { Preparation, PreparedImage } from '../vision/image-pool.ts';

/** How a family reads images: at once, or in two parts of which the first can run in a thread. */
export interface FamilyInputs {
  processImage(image: RawImage): Promise<ProcessedImage>;
  /** Decoding and resizing, here. */
  prepare(image: RawImage): Promise<PreparedImage>;
  /** Decoding and resizing, in threads. */
  readonly preparation: Preparation;
  /** The rest, where libtorch is. */
  finish(prepared: PreparedImage): ProcessedImage;
  /** What every image is brought to, such as `280x280`; `native` where it keeps its shape. */
  readonly imageSize: string;
}

/** How images are read, as far as a model's settings say it. */
export interface ImageSettings {
  profile: ProfileName;
  /** `native` or `WIDTHxHEIGHT`; null: as the profile has it. */
  imageSize?: string | null;
}

export interface FamilyParts {
  inputs(folder: string, settings: ImageSettings): FamilyInputs;
  prompts(profile: ProfileName, task: string, folder: string, tokenizer: Tokenizer): PromptProfile;
  imageToken: string;
  /** Samples longer than this lose whole steps from the end. */
  maxTokens: number;
  /** K where nothing else is said. */
  patches: number;
  /** Those the model had before anybody taught it latent steps. */
  positions: PositionKind;
}

export const families: Readonly<Record<string, FamilyParts>> = {
  'qwen2-vl': {
    inputs: (folder, { profile, imageSize }) =>
      Qwen2VlInputs.fromFolder(folder, {
        ...(profile === 'official' && OFFICIAL_INPUTS),
        ...(imageSize && { fixedSize: parseImageSize(imageSize) }),
      }),
    prompts: qwen2VlPrompts,
    imageToken: '<|image_pad|>',
    maxTokens: 3400,
    patches: 32,
    positions: 'mrope',
  },
  chameleon: {
    inputs: (folder, { imageSize }) => {
      const inputs = ChameleonInputs.fromFolder(folder);
      if (imageSize && imageSize !== 'native' && imageSize !== inputs.imageSize)
        throw new UserError(
          `image size ${imageSize}: ${folder} is a Chameleon model, which reads every image at ${inputs.imageSize}`,
        );
      return inputs;
    },
    prompts: (profile, task, folder, tokenizer) => chameleonPrompts(profile, task, folderTokens(folder, tokenizer)),
    imageToken: IMAGE_TOKEN,
    maxTokens: 1400,
    patches: 64,
    positions: 'sequential',
  },
};

/** `native` -> undefined, `280x140` -> width and height. */
function parseImageSize(text: string): { width: number; height: number } | undefined {
  if (text === 'native') return undefined;
  const [width, height] = text.split('x').map(Number);
  return { width: width!, height: height! };
}

/** `model_type` of config.json -> family. */
const MODEL_TYPES: Readonly<Record<string, string>> = { qwen2_vl: 'qwen2-vl', chameleon: 'chameleon' };

/** The family of a folder. @throws UserError when its config.json is missing or of no known family */
export function folderFamily(folder: string): FamilyParts {
  if (!existsSync(folder)) throw new UserError(`there is no model folder ${folder}`);
  const file = join(folder, 'config.json');
  return configFamily(readJson(file, 'model config'), file);
}

/** The family of a config.json. @throws UserError naming `source` when none is known */
export function configFamily(config: unknown, source: string): FamilyParts {
  const type = String((config as { model_type?: unknown } | null)?.model_type);
  const parts = families[MODEL_TYPES[type] ?? ''];
  if (!parts)
    throw new UserError(`${source}: model_type ${type} is not known; known are ${Object.keys(MODEL_TYPES).join(', ')}`);
  return parts;
}

/** How samples of a task become tokens for a folder's model. */
export function folderRendering(
  folder: string,
  parts: FamilyParts,
  tokenizer: Tokenizer,
  profileName: ProfileName,
): (task: string) => RenderOptions {
  let chatTemplate: ChatTemplate | undefined;
  return (task) => {
    const profile = parts.prompts(profileName, task, folder, tokenizer);
    if (profile.train.chat || profile.infer.chat) chatTemplate ??= loadChatTemplate(folder);
    const [, , latentToken] = LATENT_TOKENS;
    const reservedTokens = LATENT_TOKENS;
    const { imageToken, maxTokens } = parts;
    return {
      ...{ tokenizer, profile, imageToken, latentToken, reservedTokens, maxTokens },
      ...(chatTemplate && { chatTemplate }),
    };
  };
}

/** A model folder without its weights: enough to see what a sample becomes. */
export interface FolderWithoutWeights {
  tokenizer: Tokenizer;
  inputs: FamilyInputs;
  renderOptions(task: string): RenderOptions;
}

/** Opens config, tokenizer, chat template and preprocessing of a folder. @throws UserError naming the file that is missing or wrong */
export function openWithoutWeights(folder: string, settings: ImageSettings): FolderWithoutWeights {
  const parts = folderFamily(folder);
  const tokenizer = Tokenizer.fromFolder(folder);
  tokenizer.addSpecialTokens(LATENT_TOKENS);
  const inputs = parts.inputs(folder, settings);
  return { tokenizer, inputs, renderOptions: folderRendering(folder, parts, tokenizer, settings.profile) };
}
