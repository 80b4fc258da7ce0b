import { TorchError } from './errors.ts';
import { native } from './native.ts';
import { wrap } from './tensor.ts';

/** A looked-up operator: calling it sends positional arguments in schema order. */
export interface Op {
  (...args: unknown[]): unknown;
  readonly schema: string;
}

const found = new Map<string, Op>();

function wrapList(ids: unknown): unknown {
  return (ids as number[]).map(wrap);
}

/**
 * Looks an operator up once. Trailing arguments with defaults may be omitted; `undefined` means the default, `null` none.
 * @throws TorchError when libtorch has no such op, or an argument does not fit the schema.
 */
export function op(name: string, overload = ''): Op {
  const key = overload ? `${name}.${overload}` : name;
  const known = found.get(key);
  if (known) return known;
  const [index, schema, kinds] = native.findOp(name, overload);
  const convert = (value: unknown, kind: string | undefined, args: unknown[]) => {
    if (kind === 'T') return (value as number) < 0 ? args[-(value as number) - 1] : wrap(value as number);
    return kind === 'L' ? wrapList(value) : value;
  };
  const call = (...args: unknown[]): unknown => {
    const result = native.callOp(index, ...args);
    if (kinds.length < 2) return kinds === '' ? undefined : convert(result, kinds, args);
    return (result as unknown[]).map((value, i) => convert(value, kinds[i], args));
  };
  const made = Object.assign(call, { schema });
  found.set(key, made);
  return made;
}

/** Calls any operator by name, e.g. `call('aten::add', 'Tensor', a, b, 2)`. */
export function call(name: string, overload: string, ...args: unknown[]): unknown {
  return op(name, overload)(...args);
}

/** Schemas of every operator of the linked libtorch, sorted. */
export function operatorSchemas(): string[] {
  return native.allOps();
}

// The generated wrappers know their ops by number; names are resolved on first use.
const resolved: number[] = [];

/**
 * For the generated functions: the native index of op number `k`. JavaScript itself drops surplus arguments without a word.
 * @throws TorchError when a function that takes `takes` arguments is called with more
 */
export function makeResolver(names: readonly string[]): (k: number, count: number, takes: number) => number {
  return (k, count, takes) => {
    const full = names[k];
    if (count > takes) throw new TorchError(full ?? '', `takes ${takes} arguments, got ${count}`);
    const index = resolved[k];
    if (index !== undefined) return index;
    if (full === undefined) throw new TorchError('', `no generated op has number ${k}`);
    const dot = full.indexOf('.');
    const made = native.findOp(dot < 0 ? full : full.slice(0, dot), dot < 0 ? '' : full.slice(dot + 1))[0];
    resolved[k] = made;
    return made;
  };
}

export { native, wrap, wrapList };
