/**
 * PEFT adapter folders, in and out: adapter_config.json and adapter_model.safetensors, whose names are
 * `base_model.model.<module path in transformers>.lora_A.weight`. Read by PEFT 0.21 and by this project alike.
 */
import { join } from 'node:path';
import { CheckpointError, Linear, type Module, openSafetensors, type StoredTensor, type Tensor } from '@ivtlr/torch';
import { z } from 'zod';
import { schemaMistakes, UserError } from '../errors.ts';
import { type FileContent, jsonFile, writeFiles } from '../file-contents.ts';
import { isListed, readJson } from '../files.ts';
import type { PathStyle } from '../models/types.ts';
import { isNamed, loraLayers, wrapLayers } from './inject.ts';
import type { LoraLinear } from './linear.ts';
import type { LoraOptions } from './options.ts';

export const adapterConfigFile = 'adapter_config.json';
const weightsFile = 'adapter_model.safetensors';

export interface AdapterConfig {
  /** Folder or hub id of the base model; null when not told. */
  baseModel: string | null;
  rank: number;
  alpha: number;
  dropout: number;
  targets: string[];
  /** Scaling is alpha / sqrt(rank) instead of alpha / rank. */
  rankStabilised: boolean;
}

const configSchema = z.object({
  peft_type: z.literal('LORA'),
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number().positive(),
  lora_dropout: z.number().min(0).lt(1).default(0),
  target_modules: z.union([z.array(z.string()), z.string()]).nullish(),
  use_rslora: z.boolean().nullish(),
});

/** Settings of PEFT that change what an adapter computes and that are not known here, with the values under which they do nothing. */
const NEUTRAL: Record<string, readonly unknown[]> = {
  bias: ['none'],
  use_dora: [false],
  lora_bias: [false],
  fan_in_fan_out: [false],
  use_qalora: [false],
  modules_to_save: [[]],
  alpha_pattern: [{}],
  layer_replication: [[]],
  target_parameters: [[]],
  trainable_token_indices: [[], {}],
  alora_invocation_tokens: [[]],
  arrow_config: [],
  kasa_config: [],
  use_bdlora: [false],
};

/** @throws UserError naming the setting that is wrong or not known here */
export function readAdapterConfig(folder: string): AdapterConfig {
  const path = join(folder, adapterConfigFile);
  const json = readJson(path, 'adapter config');
  const parsed = configSchema.safeParse(json);
  if (!parsed.success)
    throw new UserError(`${path} is no LoRA adapter that can be read:\n${schemaMistakes(parsed.error)}`);
  for (const [name, neutral] of Object.entries(NEUTRAL)) {
    const value = (json as Record<string, unknown>)[name];
    if (value === undefined || value === null) continue;
    if (!neutral.some((allowed) => JSON.stringify(allowed) === JSON.stringify(value)))
      throw new UserError(`${path}: ${name} is ${JSON.stringify(value).slice(0, 100)}, which is not supported`);
  }
  const c = parsed.data;
  const targets = c.target_modules ?? [];
  return {
    baseModel: c.base_model_name_or_path ?? null,
    rank: c.r,
    alpha: c.lora_alpha,
    dropout: c.lora_dropout,
    targets: typeof targets === 'string' ? [targets] : targets,
    rankStabilised: c.use_rslora ?? false,
  };
}

/** Whether a folder holds an adapter. */
export function isAdapterFolder(folder: string): boolean {
  return isListed(join(folder, adapterConfigFile));
}

interface AdapterPlace {
  /** Folder or hub id that PEFT and openModelFolder find the base under. */
  baseModel?: string | null;
  /** Either style is read here; PEFT wants that of the transformers it runs on. */
  style: PathStyle;
}

/**
 * The files of the model's adapters.
 * @param weights in place of the module's own: its parameters by name, of which the adapters' are taken
 */
export function adapterFiles(
  module: Module,
  options: LoraOptions,
  place: AdapterPlace,
  weights?: ReadonlyMap<string, StoredTensor>,
): FileContent[] {
  const layers = [...loraLayers(module)];
  if (layers.length === 0) throw new RangeError('adapterFiles: the model has no adapters');
  const given = (name: string, own: Tensor) => {
    const weight = weights ? weights.get(name) : own;
    if (!weight) throw new RangeError(`adapterFiles: the weights lack ${name}`);
    return weight;
  };
  const factors = layers.map(([path, { lora_A, lora_B }]) => ({
    path,
    a: given(`${path}.lora_A.weight`, lora_A.weight),
    b: given(`${path}.lora_B.weight`, lora_B.weight),
  }));
  // PEFT would put new adapters into layers that a target names and the model has plain.
  const plain = [...module.namedModules()]
    .filter(([path, layer]) => layer instanceof Linear && options.targets.some((target) => isNamed(path, target)))
    .map(([path]) => path);
  return factorFiles(factors, options, place, plain);
}

/** Writes the model's adapters into an existing folder. */
export function saveAdapter(module: Module, folder: string, options: LoraOptions, place: AdapterPlace): void {
  writeFiles(folder, adapterFiles(module, options, place));
}

/**
 * The two files as PEFT reads them.
 * @param factors a (R, inputs) and b (outputs, R) of each layer, by this project's module path
 * @param plain paths of layers that a target names and that have no adapter
 */
export function factorFiles(
  factors: readonly { path: string; a: StoredTensor; b: StoredTensor }[],
  options: LoraOptions,
  { baseModel = null, style }: AdapterPlace,
  plain: readonly string[] = [],
): FileContent[] {
  const tensors = new Map<string, StoredTensor>();
  for (const { path, a, b } of factors) {
    const name = `base_model.model.${transformersPath(path, style)}`;
    tensors.set(`${name}.lora_A.weight`, a);
    tensors.set(`${name}.lora_B.weight`, b);
  }
  const config = {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: baseModel,
    r: options.rank,
    lora_alpha: options.alpha,
    lora_dropout: options.dropout,
    target_modules: options.targets,
    ...(plain.length > 0 && { exclude_modules: plain.map((path) => transformersPath(path, style)) }),
    bias: 'none',
    fan_in_fan_out: false,
    init_lora_weights: true,
    inference_mode: true,
    use_dora: false,
    use_rslora: false,
    modules_to_save: null,
  };
  return [{ name: weightsFile, content: { tensors, metadata: { format: 'pt' } } }, jsonFile(adapterConfigFile, config)];
}

/**
 * Wraps the layers that an adapter folder has factors for, and loads them; all else is frozen.
 * @param dropout in training; default as stored
 * @throws UserError naming what is missing, unknown or misshapen; the model is then unchanged, unless a file breaks while it is read
 */
export function loadAdapter(
  module: Module,
  folder: string,
  { dropout }: { dropout?: number } = {},
): { config: AdapterConfig; layers: Map<string, LoraLinear> } {
  const config = readAdapterConfig(folder);
  const path = join(folder, weightsFile);
  try {
    using file = openSafetensors(path);
    const factors = matchFactors(module, path, file.names(), (name) => file.info(name).shape);
    const layers = wrapLayers(
      module,
      [...factors].map(([name, { layer }]) => [name, layer] as const),
      (name) => {
        const { rank } = factors.get(name)!;
        const scaling = config.alpha / (config.rankStabilised ? Math.sqrt(rank) : rank);
        return { rank, scaling, dropout: dropout ?? config.dropout };
      },
    );
    const wanted = new Map<string, string>();
    for (const [name, { a, b }] of factors) wanted.set(a, `${name}.lora_A.weight`).set(b, `${name}.lora_B.weight`);
    module.loadStateDict(file, { strict: false, rename: (name) => wanted.get(name) ?? null });
    return { config, layers };
  } catch (error) {
    if (error instanceof CheckpointError) throw new UserError(error.message);
    throw error;
  }
}

interface Factors {
  layer: Linear;
  rank: number;
  /** Stored names. */
  a: string;
  b: string;
}

/** Pairs the stored factors with the model's layers and checks every shape, before anything is changed. */
function matchFactors(
  module: Module,
  source: string,
  names: readonly string[],
  shapeOf: (name: string) => readonly number[],
): Map<string, Factors> {
  const modules = module.namedModules();
  const stored = new Map<string, { A?: string; B?: string }>();
  for (const name of names) {
    const match = /^(.*)\.lora_([AB])(?:\.\w+)?\.weight$/.exec(name);
    if (!match) throw new UserError(`${source}: ${name} is no factor of a LoRA adapter`);
    const path = modulePath(match[1]!);
    const pair = stored.get(path) ?? {};
    const factor = match[2] as 'A' | 'B';
    if (pair[factor] !== undefined) throw new UserError(`${source}: ${name} and ${pair[factor]} are the same factor`);
    pair[factor] = name;
    stored.set(path, pair);
  }
  if (stored.size === 0) throw new UserError(`${source}: the file is empty`);
  const found = new Map<string, Factors>();
  for (const [path, { A, B }] of stored) {
    const layer = modules.get(path);
    if (!(layer instanceof Linear))
      throw new UserError(`${source}: ${A ?? B} belongs to no linear layer of the base model (${path})`);
    if (A === undefined || B === undefined)
      throw new UserError(`${source}: ${A ?? B} has no counterpart lora_${A ? 'B' : 'A'}`);
    const { inputs, outputs } = layer;
    const [a, b] = [shapeOf(A), shapeOf(B)];
    const rank = a[0] ?? 0;
    const fits = a.length === 2 && b.length === 2 && a[1] === inputs && b[0] === outputs && b[1] === rank && rank > 0;
    if (!fits)
      throw new UserError(
        `${source}: ${path} is ${inputs} -> ${outputs}, but its factors are [${a.join(', ')}] and [${b.join(', ')}]`,
      );
    found.set(path, { layer, rank, a: A, b: B });
  }
  return found;
}

/** A stored module path as this project has it. */
export function modulePath(stored: string): string {
  const path = stored.replace(/^base_model\.model\./, '');
  if (path.startsWith('model.language_model.')) return `model.${path.slice('model.language_model.'.length)}`;
  if (path.startsWith('model.visual.')) return path.slice('model.'.length);
  return path;
}

/** The reverse, for the given style. */
function transformersPath(path: string, style: PathStyle): string {
  if (style === 'flat') return path;
  if (path.startsWith('model.')) return `model.language_model.${path.slice('model.'.length)}`;
  if (path.startsWith('visual.')) return `model.${path}`;
  return path;
}
