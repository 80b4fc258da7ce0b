/**
 * Modules: trees of parameters found by looking at a module's own properties.
 *
 * There is nothing to register. A property that is a Tensor is a parameter, a property that is a Module is a submodule, and arrays of either
 * count by index, so the property path `layers.0.mlp.up_proj.weight` is the name in the state dict. Properties therefore carry the names of
 * the checkpoint (Hugging Face's, in snake case), and replacing a property (LoRA puts a wrapper where a Linear was) is all it takes to change
 * the tree. Tensors that are no parameters are declared with `buffer()`, or kept in `#private` fields, which no scan sees.
 * Parameters live until `dispose()` or garbage collection, whatever scope they were made in.
 */
import { noGrad } from '../core/autograd.ts';
import type { Device, DType } from '../core/dtype.ts';
import { keep } from '../core/scope.ts';
import { Tensor } from '../core/tensor.ts';
import {
  type LoadOptions,
  type LoadReport,
  loadInto,
  slotsByTensor,
  type TensorSlot,
  type TensorSource,
} from './state-dict.ts';

export abstract class Module {
  /** Whether dropout and the like act as in training. Set with `train()` and `eval()`. */
  training = true;
  readonly #buffers = new Map<string, boolean>();

  /** Makes a tensor a parameter that outlives the scope it was made in: `scale = this.parameter(ones([8]))`. */
  protected parameter(tensor: Tensor): Tensor {
    tensor.requiresGrad = true;
    return keep(tensor);
  }

  /**
   * Declares the property `name` of this module as a buffer: not trained, moved by `to()`, and part of the state dict unless
   * `persistent` is false. Returns the tensor: `inv_freq = this.buffer('inv_freq', makeFrequencies(), { persistent: false })`.
   */
  protected buffer(name: string, tensor: Tensor, { persistent = true } = {}): Tensor {
    this.#buffers.set(name, persistent);
    return keep(tensor);
  }

  /** Every place that holds a tensor, in order of definition. A tensor tied to two places appears twice. */
  *slots(prefix = ''): Generator<TensorSlot> {
    for (const key of Object.keys(this)) {
      const persistent = this.#buffers.get(key);
      const kind = persistent === undefined ? 'parameter' : persistent ? 'buffer' : 'transient';
      yield* slotsIn(this as unknown as Record<string, unknown>, key, `${prefix}${key}`, kind);
    }
  }

  /** This module (named '') and all below it, by path. */
  namedModules(): Map<string, Module> {
    const found = new Map<string, Module>([['', this]]);
    const visit = (value: unknown, name: string): void => {
      if (value instanceof Module) {
        found.set(name, value);
        for (const key of Object.keys(value))
          visit((value as unknown as Record<string, unknown>)[key], `${name}.${key}`);
      } else if (Array.isArray(value)) value.forEach((item, i) => void visit(item, `${name}.${i}`));
    };
    for (const key of Object.keys(this)) visit((this as unknown as Record<string, unknown>)[key], key);
    return found;
  }

  /** Puts `module` in the place `path` ("layers.0.q_proj"), which must hold a module. The one before is returned, not freed. */
  replaceModule(path: string, module: Module): Module {
    const keys = path.split('.');
    const last = keys.pop()!;
    let holder: unknown = this;
    for (const key of keys) holder = (holder as Record<string, unknown> | undefined)?.[key];
    const before = (holder as Record<string, unknown> | undefined)?.[last];
    if (!(before instanceof Module)) throw new Error(`replaceModule: there is no module at ${path}`);
    (holder as Record<string, unknown>)[last] = module;
    return before;
  }

  /** Parameters by name; a tied parameter once, under its first name. */
  namedParameters(): Map<string, Tensor> {
    return uniqueTensors(this.slots(), 'parameter');
  }

  parameters(): Tensor[] {
    return [...this.namedParameters().values()];
  }

  /** Buffers by name, those outside the state dict included. */
  namedBuffers(): Map<string, Tensor> {
    return new Map([...uniqueTensors(this.slots(), 'buffer'), ...uniqueTensors(this.slots(), 'transient')]);
  }

  /** Parameters and persistent buffers by name: the tensors themselves, no copies. A tied tensor appears under each of its names. */
  stateDict(): Map<string, Tensor> {
    const state = new Map<string, Tensor>();
    for (const { name, tensor, kind } of this.slots()) if (kind !== 'transient') state.set(name, tensor);
    return state;
  }

  /**
   * Loads tensors by name from a map (copied into place) or a file such as `openCheckpoint(folder)` (each read straight into the parameter's
   * dtype and device). Throws StateDictError on a wrong shape and, unless `strict` is false, on missing or unexpected names.
   */
  loadStateDict(state: ReadonlyMap<string, Tensor> | TensorSource, options?: LoadOptions): LoadReport {
    return loadInto([...this.slots()], state, options);
  }

  /** Sets training mode here and below. */
  train(on = true): this {
    for (const module of this.namedModules().values()) module.training = on;
    return this;
  }

  eval(): this {
    return this.train(false);
  }

  /** Sets `requiresGrad` of every parameter here and below. */
  setRequiresGrad(on: boolean): this {
    for (const parameter of this.parameters()) parameter.requiresGrad = on;
    return this;
  }

  /**
   * Moves parameters and buffers; only floating-point ones change dtype. Tensors are replaced, so optimisers are made afterwards.
   */
  to({ dtype, device }: { dtype?: DType; device?: Device }): this {
    for (const [tensor, places] of slotsByTensor(this.slots())) {
      const moved = convert(tensor, dtype, device);
      if (moved === tensor) continue;
      for (const { replace } of places) replace(moved);
      tensor.dispose(); // at once, so that no second copy of the model builds up
    }
    return this;
  }

  /** Frees every parameter and buffer at once instead of at some garbage collection. */
  dispose(): void {
    for (const { tensor } of [...this.slots()]) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function* slotsIn(
  holder: Record<string, unknown>,
  key: string,
  name: string,
  kind: TensorSlot['kind'],
): Generator<TensorSlot> {
  const value = holder[key];
  if (value instanceof Tensor) {
    const replace = (tensor: Tensor): void => {
      holder[key] = tensor;
    };
    yield { name, tensor: value, kind, replace };
  } else if (value instanceof Module) {
    yield* value.slots(`${name}.`);
  } else if (Array.isArray(value)) {
    for (const i of value.keys()) yield* slotsIn(value as never, String(i), `${name}.${i}`, kind);
  }
}

function uniqueTensors(slots: Iterable<TensorSlot>, wanted: TensorSlot['kind']): Map<string, Tensor> {
  const seen = new Set<Tensor>();
  const found = new Map<string, Tensor>();
  for (const { name, tensor, kind } of slots) {
    if (kind !== wanted || seen.has(tensor)) continue;
    seen.add(tensor);
    found.set(name, tensor);
  }
  return found;
}

const FLOATING = new Set<DType>(['float32', 'float64', 'float16', 'bfloat16']);

/** Whether a dtype can carry gradients. */
export function isFloating(dtype: DType): boolean {
  return FLOATING.has(dtype);
}

function convert(tensor: Tensor, dtype: DType | undefined, device: Device | undefined): Tensor {
  const toDtype = dtype !== undefined && isFloating(tensor.dtype) && tensor.dtype !== dtype ? dtype : undefined;
  const toDevice = device !== undefined && !sameDevice(tensor.device, device) ? device : undefined;
  if (toDtype === undefined && toDevice === undefined) return tensor;
  const { requiresGrad } = tensor;
  const result = noGrad(() => {
    if (toDevice === undefined) return tensor.to(toDtype!);
    if (toDtype === undefined) return tensor.to(toDevice);
    using there = tensor.to(toDevice);
    return there.to(toDtype);
  });
  result.requiresGrad = requiresGrad;
  return keep(result);
}

/** 'cuda' means the current GPU, which a tensor reports as 'cuda:0' on a machine with one. */
export function sameDevice(a: Device, b: Device): boolean {
  const full = (device: Device) => (device === 'cuda' ? 'cuda:0' : device);
  return full(a) === full(b);
}
