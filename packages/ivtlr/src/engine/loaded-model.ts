/**
 * A model folder as a whole: weights, tokenizer, chat template, preprocessing, and how the model was trained to reason. Everything that
 * trains, evaluates or asks a model opens it here.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Device, DType, StoredTensor } from '@ivtlr/torch';
import { z } from 'zod';
import type { RenderOptions } from '../data/render.ts';
import type { RawImage } from '../data/sample.ts';
import { schemaMistakes, UserError } from '../errors.ts';
import { type FileContent, jsonFile, writeFiles } from '../file-contents.ts';
import { isListed, readBytes, readJson, wholeFolder } from '../files.ts';
import { cachedSnapshot, isHubName } from '../hub/cache.ts';
import { hubSettings } from '../hub/settings.ts';
import { type LatentOptions, latentOptionsSchema, latentStepsSchema } from '../latent/options.ts';
import {
  type AdapterConfig,
  adapterConfigFile,
  adapterFiles,
  isAdapterFolder,
  loadAdapter,
  readAdapterConfig,
} from '../lora/adapter-folder.ts';
import { mergeLora, removeLora } from '../lora/inject.ts';
import type { LoraOptions } from '../lora/options.ts';
import { checkProfile, type Family } from '../models/family.ts';
import { familyOf, loadHollowModel, loadModel, modelFiles } from '../models/registry.ts';
import type { FillParameters, ImageInputs, ProcessedImage, VisionLanguageModel } from '../models/types.ts';
import { PROFILES, type ProfileName } from '../text/prompt.ts';
import { LATENT_TOKENS, Tokenizer } from '../text/tokenizer.ts';
import { IMAGE_SIZE, RESIZE_RULES } from '../vision/resize.ts';
import { folderRendering } from './folder-rendering.ts';

const settingsFile = 'ivtlr.json';

/**
 * How a model was trained to reason, kept as ivtlr.json beside its weights. Inference must do the same, so these are its defaults; the
 * values for what the file does not say are the official code's, where it knows the family.
 */
export const reasoningSettingsSchema = z.strictObject({
  task: z
    .string()
    .regex(/^[A-Za-z0-9_-]+$/, 'should be of letters, digits, - and _')
    .nullable()
    .default(null),
  profile: z.enum(PROFILES).default('official'),
  /** Null: as the profile has it. */
  imageSize: z.string().regex(IMAGE_SIZE, 'should be native or WIDTHxHEIGHT').nullable().default(null),
  /** Null: as the profile has it. */
  resize: z.enum(RESIZE_RULES).nullable().default(null),
  /** T */
  latents: latentStepsSchema.default(3),
  ...latentOptionsSchema.shape,
  /** K; the default is the family's. */
  patches: latentOptionsSchema.shape.patches.unwrap(),
});

const settingsObject = z.record(z.string(), z.unknown(), 'should be an object');

export type ReasoningSettings = z.output<typeof reasoningSettingsSchema>;

/** What a latent step of this model is, for latent/. */
export function latentOptions(settings: ReasoningSettings): LatentOptions {
  const { task, profile, imageSize, resize, latents, ...options } = settings;
  return options;
}

export interface LoadedModel {
  /** Where tokenizer and configuration come from: the base's folder for an adapter. */
  folder: string;
  family: Family;
  model: VisionLanguageModel;
  /** Gives the model's parameters their values, for a model opened without (`hollow`); null where they are in place. */
  fill: FillParameters | null;
  /** Contents of config.json. */
  config: unknown;
  tokenizer: Tokenizer;
  settings: ReasoningSettings;
  /** What adapter_config.json says, whether the adapter was merged or not; null for a model without one. */
  adapter: AdapterConfig | null;
  /** See OpenModelOptions. */
  graphs: 'auto' | 'off';
  /** How images are read, for threads that prepare them. */
  inputs: ImageInputs;
  processImage(image: RawImage): Promise<ProcessedImage>;
  /** How samples of a task become tokens for this model. */
  renderOptions(task: string): RenderOptions;
}

export interface OpenModelOptions {
  /** Default: the dtype of the stored weights. */
  dtype?: DType;
  device?: Device;
  /** Overrides single settings of ivtlr.json. */
  settings?: Partial<ReasoningSettings>;
  /**
   * Whether an adapter's work is added to the weights of its base, which leaves a plain model that costs nothing more to ask. Default true; whoever
   * trains the adapter further says false. A 16-bit weight is rounded by it, as by PEFT's merge_and_unload.
   */
  mergeAdapters?: boolean | undefined;
  /** Whether answers are made by recorded passes where the model is on a GPU (see RowBatchOptions). Default `auto`. */
  graphs?: 'auto' | 'off' | undefined;
  /** Leaves the model's parameters without memory and values, which `fill` then gives them; adapters have theirs, and are not merged. Default false. */
  hollow?: boolean;
}

/**
 * Opens a folder: a whole model, or a LoRA adapter, whose base is the folder that adapter_config.json names.
 * @throws UserError naming the file that is missing or wrong
 */
export function openModelFolder(path: string, options: OpenModelOptions = {}): LoadedModel {
  const folder = wholeFolder(path);
  if (!existsSync(folder)) throw new UserError(`there is no model folder ${folder}`);
  const { dtype, device, settings, hollow = false, mergeAdapters = !hollow } = options;
  const graphs = hollow ? 'off' : (options.graphs ?? 'auto');
  const base = isAdapterFolder(folder) ? baseOfAdapter(folder) : folder;
  const config = readJson(join(base, 'config.json'), 'model config');
  const family = familyOf(config, join(base, 'config.json'));
  if (settings?.profile) checkProfile(family, settings.profile);
  const placement = { ...(dtype && { dtype }), ...(device && { device }) };
  const { model, fill } = hollow ? loadHollowModel(base, placement) : { model: loadModel(base, placement), fill: null };
  try {
    if (base === folder) return { ...withModel(base, config, model, settings), fill, graphs };
    const { config: adapter } = loadAdapter(model.module, folder);
    model.module.eval(); // adapters may have dropout
    if (mergeAdapters) {
      mergeLora(model.module);
      removeLora(model.module);
      model.module.setRequiresGrad(true); // as any model without adapters
    }
    const stored = readReasoningSettings(folder, family, settings?.profile);
    return { ...withModel(base, config, model, { ...stored, ...settings }), fill, graphs, adapter };
  } catch (error) {
    model.module.dispose();
    throw error;
  }
}

/** The folders of a model that is on this machine, named by its path or as on the hub: its own, and of an adapter its base's; none where one is missing. */
export function findModelFolders(name: string): string[] {
  const path = wholeFolder(name);
  const folder = existsSync(path) || !isHubName(name) ? path : cachedSnapshot(hubSettings(), 'models', name)?.folder;
  if (folder === undefined || !existsSync(folder)) return [];
  if (!isAdapterFolder(folder)) return [folder];
  try {
    return [folder, baseOfAdapter(folder)];
  } catch (error) {
    if (error instanceof UserError) return [];
    throw error;
  }
}

/** The base model's folder: as written, beside the adapter, or of a hub name that the cache has. */
function baseOfAdapter(folder: string): string {
  const { baseModel } = readAdapterConfig(folder);
  const file = join(folder, adapterConfigFile);
  if (baseModel === null) throw new UserError(`${file} does not name its base model (base_model_name_or_path)`);
  const candidates = [baseModel, join(folder, baseModel), join(folder, '..', baseModel)];
  const cached = isHubName(baseModel) ? cachedSnapshot(hubSettings(), 'models', baseModel) : null;
  if (cached) candidates.push(cached.folder);
  const found = candidates.find((candidate) => existsSync(join(candidate, 'config.json')));
  if (!found) {
    throw new UserError(
      `${file}: the base model ${baseModel} is no folder with a config.json here and not in the cache of the hub; download it, or write its folder as base_model_name_or_path`,
    );
  }
  return found;
}

/** As openModelFolder, for weights at hand, which may move or change; the other files come from the folder. */
export function withModel(
  folder: string,
  config: unknown,
  model: VisionLanguageModel,
  overrides: Partial<ReasoningSettings> = {},
): LoadedModel {
  const tokenizer = Tokenizer.fromFolder(folder);
  if (tokenizer.vocabSize > model.vocabularySize) {
    throw new UserError(
      `${folder}: the tokenizer has ${tokenizer.vocabSize} entries, but the model only ${model.vocabularySize}`,
    );
  }
  const family = familyOf(config, join(folder, 'config.json'));
  const imageId = tokenizer.tokenToId(family.imageToken);
  if (imageId !== model.imageTokenId) {
    throw new UserError(
      `${folder}: the tokenizer ${imageId === undefined ? 'lacks' : `gives ${imageId} for`} ${family.imageToken}, but config.json says that its id is ${model.imageTokenId}`,
    );
  }
  // They mark the slots and are never embedded: Chameleon-7B has no rows left for them.
  tokenizer.addSpecialTokens(LATENT_TOKENS);
  const settings = { ...readReasoningSettings(folder, family, overrides.profile), ...overrides };
  const inputs = family.inputs(folder, settings);
  return {
    folder,
    family,
    model,
    fill: null,
    graphs: 'off',
    config,
    tokenizer,
    settings,
    adapter: null,
    inputs,
    processImage: (image) => inputs.processImage(image),
    renderOptions: folderRendering(folder, family, tokenizer, settings.profile),
  };
}

/**
 * The settings stored beside a model. A model without any is not known to have been trained on latent steps, so it is asked the way its
 * makers document, unless the caller asks for a profile, whose defaults then apply.
 */
export function readReasoningSettings(
  folder: string,
  { patches, positions, official }: Pick<Family, 'patches' | 'positions' | 'official'>,
  profile?: ProfileName,
): ReasoningSettings {
  const path = join(folder, settingsFile);
  const plain = { profile: 'plain', latents: 0, positions };
  const stored = isListed(path)
    ? checkedSettings(settingsObject, readJson(path, 'reasoning settings'), path)
    : profile === undefined || profile === 'plain'
      ? plain
      : { profile };
  const defaults = { patches, ...(!official && { profile: 'consistent' }) };
  return checkedSettings(reasoningSettingsSchema, { ...defaults, ...stored }, path);
}

function checkedSettings<T extends z.ZodType>(schema: T, value: unknown, path: string): z.output<T> {
  const result = schema.safeParse(value);
  if (!result.success) throw new UserError(`${path} is not usable:\n${schemaMistakes(result.error)}`);
  return result.data;
}

/** Files a saved model takes over unchanged from the folder it was made from. */
const AUXILIARY_FILES =
  /^(tokenizer.*|chat_template\..*|(preprocessor_config|processor_config|special_tokens_map|generation_config|vocab)\.json|merges\.txt)$/;

/** Reads those files, since the folder may be a checkpoint that is removed while training goes on. */
export function readAuxiliaryFiles(folder: string): Map<string, Uint8Array> {
  const names = readdirSync(folder).filter((name) => AUXILIARY_FILES.test(name));
  return new Map(names.map((name) => [name, readBytes(join(folder, name), name)]));
}

/**
 * The files of a folder that openModelFolder, and any Hugging Face program, can load.
 * @param weights in place of the model's own: all of its parameters by name
 */
export function modelFolderFiles(
  opened: Pick<LoadedModel, 'model' | 'config' | 'settings'>,
  auxiliaryFiles: ReadonlyMap<string, Uint8Array>,
  weights?: ReadonlyMap<string, StoredTensor>,
): FileContent[] {
  return [
    ...[...auxiliaryFiles].map(([name, content]) => ({ name, content })),
    jsonFile(settingsFile, opened.settings),
    ...modelFiles(opened.model, opened.config, weights),
  ];
}

/** Writes them; `target` exists. */
export function saveModelFolder(
  opened: Pick<LoadedModel, 'model' | 'config' | 'settings'>,
  auxiliaryFiles: ReadonlyMap<string, Uint8Array>,
  target: string,
): void {
  writeFiles(target, modelFolderFiles(opened, auxiliaryFiles));
}

/**
 * The model's adapters as files of a folder that openModelFolder and PEFT can load; the base stays where it is.
 * @param weights in place of the model's own: its parameters by name, of which the adapters' are taken
 */
export function adapterFolderFiles(
  opened: Pick<LoadedModel, 'model' | 'settings' | 'folder'>,
  options: LoraOptions,
  weights?: ReadonlyMap<string, StoredTensor>,
): FileContent[] {
  const { module, pathStyle: style } = opened.model;
  const place = { baseModel: resolve(opened.folder), style };
  return [jsonFile(settingsFile, opened.settings), ...adapterFiles(module, options, place, weights)];
}

/** Writes them; `target` exists. */
export function saveAdapterFolder(
  opened: Pick<LoadedModel, 'model' | 'settings' | 'folder'>,
  options: LoraOptions,
  target: string,
): void {
  writeFiles(target, adapterFolderFiles(opened, options));
}
