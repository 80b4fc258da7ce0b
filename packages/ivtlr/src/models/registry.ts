/** Model folders by `model_type`: a new backbone is a folder beside this file and one line in the table. */
import fs from 'node:fs';
import { join } from 'node:path';
import { type Device, type DType, manualSeed, skipInit } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { readJson, writeFileAtomic } from '../files.ts';
import { parseChameleonConfig } from './chameleon/config.ts';
import { Chameleon, storedName } from './chameleon/model.ts';
import { loadWeights, saveWeights } from './common/weights.ts';
import { parseQwen2VLConfig } from './qwen2-vl/config.ts';
import { originalName, Qwen2VL } from './qwen2-vl/model.ts';
import type { PathStyle, VisionLanguageModel } from './types.ts';

export interface LoadModelOptions {
  /** Default: the dtype of the stored weights. */
  dtype?: DType;
  /** Default `cpu`. */
  device?: Device;
}

/** One model_type with its config.json read. */
interface Backbone {
  /** A model whose weights are not set yet. */
  make(options: LoadModelOptions): VisionLanguageModel & { initialize(): void };
  tied: boolean;
  /** The name this project stores a weight of a Hugging Face checkpoint under; null where it is not used. */
  storedName(name: string): string | null;
}

const FAMILIES: Record<string, (configJson: unknown, source: string) => Backbone> = {
  qwen2_vl: (json, source) => {
    const config = parseQwen2VLConfig(json, source);
    return { make: (options) => new Qwen2VL(config, options), tied: config.tied, storedName: originalName };
  },
  chameleon: (json, source) => {
    const config = parseChameleonConfig(json, source);
    return { make: (options) => new Chameleon(config, options), tied: config.tied, storedName };
  },
};

function backboneOf(json: unknown, source: string): Backbone {
  const type = (json as { model_type?: unknown } | null)?.model_type;
  const family = typeof type === 'string' ? FAMILIES[type] : undefined;
  if (!family)
    throw new UserError(
      `${source}: model_type is ${JSON.stringify(type)}, known are ${Object.keys(FAMILIES).join(', ')}`,
    );
  const backbone = family(json, source);
  // A tied head that is stored all the same says nothing new.
  const name = (stored: string) => (backbone.tied && stored === 'lm_head.weight' ? null : backbone.storedName(stored));
  return { ...backbone, storedName: name };
}

/** Loads a Hugging Face folder (config.json and safetensors). @throws UserError naming the file and what is wrong */
export function loadModel(folder: string, options: LoadModelOptions = {}): VisionLanguageModel {
  if (!fs.existsSync(folder)) throw new UserError(`${folder}: there is no such model folder`);
  const file = join(folder, 'config.json');
  const { make, storedName } = backboneOf(readJson(file), file);
  return loadWeights(folder, options.dtype, (dtype) => make({ ...options, dtype }), storedName);
}

/** A model with random weights for training from scratch, the same for the same seed. */
export function createModel(
  configJson: unknown,
  seed: number,
  options: LoadModelOptions & { source?: string } = {},
): VisionLanguageModel {
  const { source = 'model config', ...placement } = options;
  manualSeed(seed);
  const model = backboneOf(configJson, source).make(placement);
  model.initialize();
  return model;
}

/** Writes config.json and the weights into an existing folder, loadable by loadModel and by Hugging Face. */
export function saveModel(model: VisionLanguageModel, configJson: unknown, folder: string): void {
  saveWeights(model.module, folder);
  writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(configJson, null, 2)}\n`);
}

/** What a folder with this config.json must hold. */
export interface WeightNames {
  /** Shape of every weight, by the name it is stored under. */
  shapes: Map<string, readonly number[]>;
  /** The name in `shapes` for a name of a Hugging Face checkpoint; null where the weight is not used or repeats another one. */
  storedName(name: string): string | null;
  pathStyle: PathStyle;
}

/** The weights of a config.json, without making any. @throws UserError naming the key of the config that is wrong */
export function weightNames(configJson: unknown, source: string): WeightNames {
  const { make, storedName } = backboneOf(configJson, source);
  // Tensors of the device `meta` have shapes and no memory.
  const model = skipInit(() => make({ device: 'meta' }));
  try {
    const shapes = new Map([...model.module.namedParameters()].map(([name, { shape }]) => [name, [...shape]]));
    return { shapes, storedName, pathStyle: model.pathStyle };
  } finally {
    model.module.dispose();
  }
}
