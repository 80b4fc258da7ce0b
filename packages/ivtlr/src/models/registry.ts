/** The model families, and models loaded, made and saved: a new backbone is a folder beside this file and one line in FAMILIES. */
import fs from 'node:fs';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import {
  elementSize,
  getRngState,
  keep,
  manualSeed,
  type StoredTensor,
  setRngState,
  setStorageBytes,
  skipInit,
  type Tensor,
  withoutMemory,
} from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { type FileContent, jsonFile, writeFiles } from '../file-contents.ts';
import { readJson } from '../files.ts';
import { chameleon } from './chameleon/family.ts';
import { refuseQuantized } from './common/config-schema.ts';
import { loadWeights, loadWeightsLater, weightsFile } from './common/weights.ts';
import type { Backbone, Family, LoadModelOptions } from './family.ts';
import { qwen25Vl } from './qwen2-5-vl/family.ts';
import { qwen2Vl } from './qwen2-vl/family.ts';
import { qwen3Vl } from './qwen3-vl/family.ts';
import { smolVlm } from './smolvlm/family.ts';
import type { FillParameters, PathStyle, VisionLanguageModel } from './types.ts';

export const FAMILIES: readonly Family[] = [qwen2Vl, qwen25Vl, qwen3Vl, chameleon, smolVlm];

function typesOf({ modelType, olderModelTypes = [] }: Family): readonly string[] {
  return [modelType, ...olderModelTypes];
}

/** The family of a config.json. @throws UserError naming `source` when its model_type is not known */
export function familyOf(config: unknown, source: string): Family {
  const type = (config as { model_type?: unknown } | null)?.model_type;
  const family = FAMILIES.find((family) => typesOf(family).includes(type as string));
  if (family) return family;
  const known = FAMILIES.flatMap(typesOf).join(', ');
  throw new UserError(`${source}: model_type is ${JSON.stringify(type) ?? 'missing'}, known are ${known}`);
}

/** The family of a folder. @throws UserError when its config.json is missing or of no known family */
export function folderFamily(folder: string): Family {
  if (!fs.existsSync(folder)) throw new UserError(`there is no model folder ${folder}`);
  const file = join(folder, 'config.json');
  return familyOf(readJson(file, 'model config'), file);
}

/** What a config.json says, and the stored names of its weights. */
function backboneOf(config: unknown, source: string) {
  const family = familyOf(config, source);
  refuseQuantized(config, source);
  const backbone = family.backbone(config, source);
  // Some checkpoints store the head although it is tied to the embedding; that copy is not read.
  const storedName = (name: string) => (backbone.tied && name === 'lm_head.weight' ? null : family.storedName(name));
  return { make: backbone.make, storedName };
}

/** Loads a Hugging Face folder (config.json and safetensors). @throws UserError naming the file and what is wrong */
export function loadModel(folder: string, options: LoadModelOptions = {}): VisionLanguageModel {
  const { make, storedName } = backboneOfFolder(folder);
  return loadWeights(folder, options, make, storedName);
}

function backboneOfFolder(folder: string) {
  if (!fs.existsSync(folder)) throw new UserError(`${folder}: there is no such model folder`);
  const file = join(folder, 'config.json');
  return backboneOf(readJson(file), file);
}

/** A model whose parameters have no memory before `fill`: for those that keep a part of each. */
export interface HollowModel {
  model: VisionLanguageModel;
  /** To be called once. */
  fill: FillParameters;
}

/** As loadModel, with parameters to be read later, one by one. */
export function loadHollowModel(folder: string, options: LoadModelOptions = {}): HollowModel {
  const { make, storedName } = backboneOfFolder(folder);
  return loadWeightsLater(folder, options, make, storedName);
}

/** A model with random weights for training from scratch, the same for the same seed. */
export function createModel(
  configJson: unknown,
  seed: number,
  options: LoadModelOptions & { source?: string } = {},
): VisionLanguageModel {
  const { source = 'model config', ...placement } = options;
  const { make } = backboneOf(configJson, source);
  if ((placement.device ?? 'cpu') === 'cpu') checkMemory(make, placement, source);
  manualSeed(seed);
  const model = make(placement);
  model.initialize();
  return model;
}

/** As createModel, with the same weights to be drawn later, one by one. `fill` leaves the random generator as it finds it. */
export function createHollowModel(
  configJson: unknown,
  seed: number,
  { dtype, device = 'cpu' }: LoadModelOptions = {},
): HollowModel {
  const { make } = backboneOf(configJson, 'model config');
  manualSeed(seed);
  const model = withoutMemory(() => make({ device, ...(dtype && { dtype }) }));
  const drawn = keep(getRngState(device));
  // Taken down now, since adapters may come between the modules before they are drawn.
  const parameters: [Tensor, () => void][] = [];
  model.initialize((parameter, set) => parameters.push([parameter, set]));
  const fill: FillParameters = (taken) => {
    using before = keep(getRngState(device));
    using state = drawn;
    setRngState(state, device);
    for (const [parameter, set] of parameters) {
      setStorageBytes(parameter, parameter.nbytes);
      set();
      if (taken(parameter)) setStorageBytes(parameter, 0);
    }
    setRngState(before, device);
  };
  return { model, fill };
}

/** @throws UserError when the weights alone need more memory than the machine has */
function checkMemory(make: Backbone['make'], { dtype = 'float32' }: LoadModelOptions, source: string): void {
  const sketch = skipInit(() => make({ device: 'meta' }));
  const numbers = [...sketch.module.namedParameters().values()].reduce((sum, { numel }) => sum + numel, 0);
  sketch.module.dispose();
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
  const needed = numbers * elementSize(dtype);
  if (needed > totalmem())
    throw new UserError(
      `${source}: the weights of this model need ${gigabytes(needed)}, but the machine has ${gigabytes(totalmem())}`,
    );
}

/**
 * config.json and the weights, loadable by loadModel and by Hugging Face once they are in a folder.
 * @param weights in place of the model's own: all of its parameters by name
 */
export function modelFiles(
  model: VisionLanguageModel,
  configJson: unknown,
  weights?: ReadonlyMap<string, StoredTensor>,
): FileContent[] {
  return [weightsFile(model.module, weights), jsonFile('config.json', configJson)];
}

/** Writes them into an existing folder. */
export function saveModel(model: VisionLanguageModel, configJson: unknown, folder: string): void {
  writeFiles(folder, modelFiles(model, configJson));
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
