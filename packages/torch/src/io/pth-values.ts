/** What the pickle machine's values are: Python's, as far as a state dict has them. */
import { quote } from './safetensors-header.ts';

export class PickleTuple {
  readonly items: readonly Value[];
  constructor(items: readonly Value[]) {
    this.items = items;
  }
}

export class PickleList {
  readonly items: Value[] = [];
}

export class PickleDict {
  #entries: Map<string | number | bigint | boolean, Value> | null = null;

  /** Made when first asked for: one byte of a hostile pickle makes a dictionary. */
  get entries(): Map<string | number | bigint | boolean, Value> {
    this.#entries ??= new Map();
    return this.#entries;
  }
}

/** A name such as `torch._utils._rebuild_tensor_v2`. */
export class PickleGlobal {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

/** Whatever the caller's `call` and `persistent` made. */
export class PickleObject<T = unknown> {
  readonly value: T;
  constructor(value: T) {
    this.value = value;
  }
}

export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | PickleTuple
  | PickleList
  | PickleDict
  | PickleGlobal
  | PickleObject;

/** What a value is, for error messages. */
export function kindOf(value: Value): string {
  if (value === null) return 'None';
  if (value instanceof PickleTuple) return 'a tuple';
  if (value instanceof PickleList) return 'a list';
  if (value instanceof PickleDict) return 'a dictionary';
  if (value instanceof PickleGlobal) return `the name ${quote(value.name)}`;
  if (value instanceof PickleObject) return 'a tensor or storage';
  return typeof value === 'string' ? 'a string' : typeof value === 'boolean' ? 'a bool' : 'a number';
}
