/** Loading named tensors into a module tree. */
import { noGrad } from '../core/autograd.ts';
import type { Device, DType } from '../core/dtype.ts';
import { keep, scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';

/** One place in the tree that holds a tensor: `holder[key]`, named `name`. */
export interface TensorSlot {
  readonly name: string;
  readonly tensor: Tensor;
  /** A parameter, a buffer of the state dict, or a buffer that is left out of it. */
  readonly kind: 'parameter' | 'buffer' | 'transient';
  replace(tensor: Tensor): void;
}

/** The places of each tensor: more than one where parameters are tied. */
export function slotsByTensor(slots: Iterable<TensorSlot>): Map<Tensor, TensorSlot[]> {
  const places = new Map<Tensor, TensorSlot[]>();
  for (const slot of slots) {
    const known = places.get(slot.tensor);
    if (known) known.push(slot);
    else places.set(slot.tensor, [slot]);
  }
  return places;
}

/** Anything that holds tensors by name, such as an opened checkpoint. */
export interface TensorSource {
  names(): string[];
  info(name: string): { dtype: DType; shape: readonly number[] };
  read(name: string, options?: { dtype?: DType; device?: Device }): Tensor;
}

export interface LoadOptions {
  /** Throw on missing and unexpected names (default true). A wrong shape always throws. */
  strict?: boolean;
  /** The module's name for a name of the state, or null to leave that tensor out. */
  rename?: (name: string) => string | null;
}

/** Names of the module that the state lacks, and names of the state that the module lacks. */
export interface LoadReport {
  missing: string[];
  unexpected: string[];
}

/** A state dict that does not fit its module. */
export class StateDictError extends Error implements LoadReport {
  override name = 'StateDictError';
  constructor(
    message: string,
    readonly missing: string[] = [],
    readonly unexpected: string[] = [],
  ) {
    super(message);
  }
}

/** Everything is checked before the first tensor is touched: a state that does not fit leaves the module as it was. */
export function loadInto(
  all: readonly TensorSlot[],
  state: ReadonlyMap<string, Tensor> | TensorSource,
  { strict = true, rename = (name) => name }: LoadOptions = {},
): LoadReport {
  const source = state instanceof Map ? null : (state as TensorSource);
  const map = state as ReadonlyMap<string, Tensor>;
  const slots = new Map<string, TensorSlot>();
  for (const slot of all) if (slot.kind !== 'transient') slots.set(slot.name, slot);

  const pairs: { from: string; slot: TensorSlot }[] = [];
  const unexpected: string[] = [];
  const filled = new Map<string, string>();
  for (const from of source ? source.names() : map.keys()) {
    const name = rename(from);
    if (name === null) continue;
    const slot = slots.get(name);
    if (!slot) {
      unexpected.push(from);
      continue;
    }
    const twin = filled.get(name);
    if (twin !== undefined) throw new StateDictError(`the state names ${name} twice, as ${twin} and as ${from}`);
    filled.set(name, from);
    const shape = source ? source.info(from).shape : map.get(from)!.shape;
    if (!sameShape(shape, slot.tensor.shape))
      throw new StateDictError(
        `${from} has shape [${shape.join(', ')}], the module needs [${slot.tensor.shape.join(', ')}]`,
      );
    pairs.push({ from, slot });
  }
  // A tied parameter has several names; files usually hold one of them.
  const loaded = new Set(pairs.map(({ slot }) => slot.tensor));
  const missing = [...slots.values()].filter(({ tensor }) => !loaded.has(tensor)).map(({ name }) => name);
  if (strict && (missing.length > 0 || unexpected.length > 0))
    throw new StateDictError(describe(missing, unexpected), missing, unexpected);

  if (source) readAll(pairs, slotsByTensor(all), source);
  else
    scope(() =>
      noGrad(() => {
        for (const { from, slot } of pairs) slot.tensor.copy_(map.get(from)!);
      }),
    );
  return { missing, unexpected };
}

function readAll(
  pairs: { from: string; slot: TensorSlot }[],
  places: ReadonlyMap<Tensor, TensorSlot[]>,
  source: TensorSource,
): void {
  for (const { from, slot } of pairs) {
    const { tensor: before } = slot;
    if (before.disposed) continue; // tied, and read under its other name
    const { requiresGrad, device } = before;
    const tensor = keep(source.read(from, { dtype: before.dtype, device }));
    if (requiresGrad) tensor.requiresGrad = true;
    for (const { replace } of places.get(before)!) replace(tensor);
    before.dispose(); // at once, so that no second copy of the model builds up
  }
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

function describe(missing: string[], unexpected: string[]): string {
  const list = (names: string[]) =>
    names.slice(0, 5).join(', ') + (names.length > 5 ? ` and ${names.length - 5} more` : '');
  const parts = [];
  if (missing.length > 0) parts.push(`lacks ${list(missing)}`);
  if (unexpected.length > 0) parts.push(`has the unexpected ${list(unexpected)}`);
  return `the state ${parts.join(' and ')}`;
}
