/** Model folders by `model_type`: a new backbone is a folder beside this file and one line in the table. */
import fs from 'node:fs';
import { join } from 'node:path';
import { type Device, type DType, manualSeed, skipInit } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { readJson, writeFileAtomic } from '../files.ts';
import { parseQwen2VLConfig } from './qwen2-vl/config.ts';
import { Qwen2VL } from './qwen2-vl/model.ts';
import { loadQwen2VL, originalName, saveQwen2VL } from './qwen2-vl/weights.ts';
import type { VisionLanguageModel } from './types.ts';

export interface LoadModelOptions {
  /** Default: the dtype of the stored weights. */
  dtype?: DType;
  /** Default `cpu`. */
  device?: Device;
}

interface Family {
  load(folder: string, configJson: unknown, options: LoadModelOptions): VisionLanguageModel;
  create(configJson: unknown, source: string, options: LoadModelOptions): VisionLanguageModel;
  save(model: VisionLanguageModel, folder: string): void;
  /** The name this project stores a weight of a Hugging Face checkpoint under; null where the weight repeats another one. */
  storedName(name: string, configJson: unknown, source: string): string | null;
}

const FAMILIES: Record<string, Family> = {
  qwen2_vl: {
    load: (folder, json, options) =>
      loadQwen2VL(folder, parseQwen2VLConfig(json, join(folder, 'config.json')), options),
    create: (json, source, options) => {
      const model = new Qwen2VL(parseQwen2VLConfig(json, source), options);
      model.initialize();
      return model;
    },
    save: (model, folder) => saveQwen2VL(model as Qwen2VL, folder),
    storedName: (name, json, source) =>
      name === 'lm_head.weight' && parseQwen2VLConfig(json, source).tied ? null : originalName(name),
  },
};

function familyOf(json: unknown, source: string): Family {
  const type = (json as { model_type?: unknown } | null)?.model_type;
  const family = typeof type === 'string' ? FAMILIES[type] : undefined;
  if (!family)
    throw new UserError(
      `${source}: model_type is ${JSON.stringify(type)}, known are ${Object.keys(FAMILIES).join(', ')}`,
    );
  return family;
}

/** Loads a Hugging Face folder (config.json and safetensors). @throws UserError naming the file and what is wrong */
export function loadModel(folder: string, options: LoadModelOptions = {}): VisionLanguageModel {
  if (!fs.existsSync(folder)) throw new UserError(`${folder}: there is no such model folder`);
  const file = join(folder, 'config.json');
  const json = readJson(file);
  return familyOf(json, file).load(folder, json, options);
}

/** A model with random weights for training from scratch, the same for the same seed. */
export function createModel(
  configJson: unknown,
  seed: number,
  options: LoadModelOptions & { source?: string } = {},
): VisionLanguageModel {
  const source = options.source ?? 'model config';
  manualSeed(seed);
  return familyOf(configJson, source).create(configJson, source, options);
}

/** Writes config.json and the weights into an existing folder, loadable by loadModel and by Hugging Face. */
export function saveModel(model: VisionLanguageModel, configJson: unknown, folder: string): void {
  familyOf(configJson, 'model config').save(model, folder);
  writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(configJson, null, 2)}\n`);
}

/** What a folder with this config.json must hold. */
export interface WeightNames {
  /** Shape of every weight, by the name it is stored under. */
  shapes: Map<string, readonly number[]>;
  /** As Family.storedName. */
  storedName(name: string): string | null;
}

/** The weights of a config.json, without making any. @throws UserError naming the key of the config that is wrong */
export function weightNames(configJson: unknown, source: string): WeightNames {
  const family = familyOf(configJson, source);
  // Tensors of the device `meta` have shapes and no memory.
  const model = skipInit(() => family.create(configJson, source, { device: 'meta' }));
  try {
    const shapes = new Map([...model.module.namedParameters()].map(([name, { shape }]) => [name, [...shape]]));
    return { shapes, storedName: (name) => family.storedName(name, configJson, source) };
  } finally {
    model.module.dispose();
  }
}
