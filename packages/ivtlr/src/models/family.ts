/** What a model family brings along. Each folder beside this file exports one such object, and registry.ts lists them. */
import type { Device, DType, Tensor } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import type { ProfileName, PromptProfile } from '../text/prompt.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import type { ResizeRule } from '../vision/resize.ts';
import type { ImageInputs, PositionKind, VisionLanguageModel } from './types.ts';

export interface LoadModelOptions {
  /** Default: the dtype of the stored weights. */
  dtype?: DType;
  /** Default `cpu`. */
  device?: Device;
}

export type InitializeParameter = (parameter: Tensor, set: () => void) => void;

/** A model that can be trained from scratch. */
export interface InitializableModel extends VisionLanguageModel {
  /** Sets random weights: `each` is called for every parameter in their order, which is that of the random numbers, and calls `set`, then or later. */
  initialize(each?: InitializeParameter): void;
}

/** One config.json, read. */
export interface Backbone {
  /** A model whose weights are not set yet. */
  make(options: LoadModelOptions): InitializableModel;
  /** Whether the language head is the embedding's table. */
  tied: boolean;
}

/** How images are read, as far as a model's settings say it. */
export interface ImageSettings {
  profile: ProfileName;
  /** `native` or `WIDTHxHEIGHT`; null or absent: as the profile has it. */
  imageSize?: string | null;
  /** Null or absent: as the profile has it, `pillow-11` for `official` and `pillow-13` for the others. */
  resize?: ResizeRule | null;
}

export interface Family {
  /** `model_type` of its config.json. */
  modelType: string;
  /** Those of earlier folders that hold the same model. */
  olderModelTypes?: readonly string[];
  /** @throws UserError naming `source` and the key of the config that is missing or wrong */
  backbone(config: unknown, source: string): Backbone;
  /** The name this project stores a weight of a Hugging Face checkpoint under; null where it is not used. */
  storedName(name: string): string | null;
  /** How a folder's model reads images. @throws UserError naming the file that is wrong */
  inputs(folder: string, settings: ImageSettings): ImageInputs;
  /** The wording of a task's prompts. @throws UserError when the tokenizer lacks a special token that they need */
  prompts(profile: ProfileName, task: string, folder: string, tokenizer: Tokenizer): PromptProfile;
  /** Whether the official IVT-LR code knows the family: without it there is no profile `official`. */
  official: boolean;
  /** The text of one image token in a prompt. */
  imageToken: string;
  /** Samples longer than this lose whole steps from the end. */
  maxTokens: number;
  /** K where nothing else is said. */
  patches: number;
  /** Those its makers gave it. */
  positions: PositionKind;
}

/** @throws UserError for a profile that the family has not */
export function checkProfile(
  { modelType, official }: Pick<Family, 'modelType' | 'official'>,
  profile: ProfileName,
): void {
  if (profile === 'official' && !official)
    throw new UserError(
      `there is no profile official for ${modelType}, which the official IVT-LR code does not know: use consistent or plain`,
    );
}
