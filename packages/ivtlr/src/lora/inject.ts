/** Putting adapters into a model, on any tree of modules, and taking them out again. */
import { Linear, type Module, type Tensor } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { LoraLinear, type LoraLinearOptions } from './linear.ts';
import type { LoraOptions } from './options.ts';

/** The decoder's layers, in every family. */
const DECODER = /^model\.(text_model\.)?layers\./;

/** Whether PEFT takes a layer for a target: its name is the target or ends in `.` and the target. */
export function isNamed(path: string, target: string): boolean {
  return path === target || path.endsWith(`.${target}`);
}

/**
 * Wraps every linear layer that a target names, and freezes everything else: afterwards only adapters have `requiresGrad`. A target that names
 * layers of the decoder means those alone: some vision towers have layers of the same names. Initial values come from the global generator, in the
 * order of the modules.
 * @returns the wrapped layers by module path
 * @throws UserError when a target names no linear layer, or the model has adapters already
 */
export function injectLora(module: Module, options: LoraOptions): Map<string, LoraLinear> {
  if (loraLayers(module).size > 0)
    throw new UserError('the model already has LoRA adapters; merge or remove them first');
  const layers = [...module.namedModules()].filter((entry): entry is [string, Linear] => entry[1] instanceof Linear);
  const chosen = new Set<string>();
  const missing: string[] = [];
  for (const target of options.targets) {
    const named = layers.map(([path]) => path).filter((path) => isNamed(path, target));
    if (named.length === 0) missing.push(target);
    const own = named.filter((path) => DECODER.test(path));
    for (const path of own.length > 0 ? own : named) chosen.add(path);
  }
  if (missing.length > 0) {
    const ends = new Set(layers.map(([path]) => path.split('.').at(-1)!));
    throw new UserError(
      `lora.targets: the model has no linear layer ${missing.join(', ')}; its layers end in ${[...ends].join(', ')}`,
    );
  }
  const { rank, alpha, dropout } = options;
  const wanted = layers.filter(([path]) => chosen.has(path));
  return wrapLayers(module, wanted, () => ({ rank, scaling: alpha / rank, dropout }));
}

/** Wraps the given layers; `optionsOf` says how. Everything else is frozen. */
export function wrapLayers(
  module: Module,
  layers: Iterable<readonly [path: string, layer: Linear]>,
  optionsOf: (path: string) => LoraLinearOptions,
): Map<string, LoraLinear> {
  module.setRequiresGrad(false);
  const wrapped = new Map<string, LoraLinear>();
  for (const [path, layer] of layers) {
    const adapter = new LoraLinear(layer, optionsOf(path));
    module.replaceModule(path, adapter);
    wrapped.set(path, adapter);
  }
  return wrapped;
}

/** The wrapped layers by module path. */
export function loraLayers(module: Module): Map<string, LoraLinear> {
  const layers = new Map<string, LoraLinear>();
  for (const [path, m] of module.namedModules()) if (m instanceof LoraLinear) layers.set(path, m);
  return layers;
}

/** Adds all adapters to the base weights: inference then costs what the base model costs. */
export function mergeLora(module: Module): void {
  for (const layer of loraLayers(module).values()) layer.merge();
}

/** Takes all adapters out of the base weights; see LoraLinear.unmerge for 16-bit weights. */
export function unmergeLora(module: Module): void {
  for (const layer of loraLayers(module).values()) layer.unmerge();
}

/**
 * Puts the plain layers back, with their weights as they are: after mergeLora a model that holds the adapters' work, else the base model.
 * The adapters' tensors are freed.
 */
export function removeLora(module: Module): void {
  for (const [path, layer] of loraLayers(module)) module.replaceModule(path, layer.release());
}

/** The adapters' own parameters, by name in the module: what LoRA training trains. */
export function loraParameters(module: Module): Map<string, Tensor> {
  return new Map([...module.namedParameters()].filter(([name]) => /\.lora_[AB]\.weight$/.test(name)));
}
