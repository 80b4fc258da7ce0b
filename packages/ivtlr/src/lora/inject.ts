/** Putting adapters into a model, on any tree of modules, and taking them out again. */
import { Linear, type Module, type Tensor } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import { LoraLinear, type LoraLinearOptions } from './linear.ts';
import type { LoraOptions } from './options.ts';

/**
 * Wraps every linear layer whose name is a target or ends in `.` and a target, and freezes everything else: afterwards only adapters have
 * `requiresGrad`. Layers within `leave`, such as a vision tower whose layers are named like the decoder's, get none. Initial values come from the global generator, in the order of the modules.
 * @returns the wrapped layers by module path
 * @throws UserError when a target names no linear layer, or the model has adapters already
 */
export function injectLora(
  module: Module,
  options: LoraOptions,
  leave: readonly Module[] = [],
): Map<string, LoraLinear> {
  if (loraLayers(module).size > 0)
    throw new UserError('the model already has LoRA adapters; merge or remove them first');
  const left = new Set(leave.flatMap((part) => [...part.namedModules().values()]));
  const modules = [...module.namedModules()].filter(([, m]) => !left.has(m));
  const names = [...new Set(modules.filter(([, m]) => m instanceof Linear).map(([path]) => path.split('.').at(-1)!))];
  const found = new Set<string>();
  const chosen: [string, Linear][] = [];
  for (const [path, candidate] of modules) {
    const matching = options.targets.filter((target) => path === target || path.endsWith(`.${target}`));
    if (matching.length === 0 || !(candidate instanceof Linear)) continue;
    for (const target of matching) found.add(target);
    chosen.push([path, candidate]);
  }
  const missing = options.targets.filter((target) => !found.has(target));
  if (missing.length > 0)
    throw new UserError(
      `lora.targets: the model has no linear layer ${missing.join(', ')}; its layers end in ${names.join(', ')}`,
    );
  const { rank, alpha, dropout } = options;
  return wrapLayers(module, chosen, () => ({ rank, scaling: alpha / rank, dropout }));
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
