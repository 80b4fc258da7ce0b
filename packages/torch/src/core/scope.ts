import { native } from './native.ts';

/** What a scope tracks: objects holding one native handle, 0 once released. */
export interface Owned {
  id: number;
}

let current: Owned[] | null = null;
/** All open scopes, the innermost last. */
const open: Owned[][] = [];
const one = new Int32Array(1);
let many = new Int32Array(1024);

// An object that nothing refers to is collected by the next full collection: its finalizer is the moment to release the handles of tensors that
// were collected too.
const collections = new FinalizationRegistry<null>(() => {
  watching = native.sweep() > 0;
  if (watching) collections.register({}, null);
});
let watching = false;

/** Called for every new handle: it belongs to the innermost scope, or to the garbage collector outside any. */
export function own(owned: Owned): void {
  if (current) {
    current.push(owned);
    return;
  }
  native.watch(owned, owned.id);
  if (watching) return;
  watching = true;
  collections.register({}, null);
}

/** Releases a handle now. Doing it twice is harmless. */
export function release(owned: Owned): void {
  if (owned.id === 0) return;
  one[0] = owned.id;
  owned.id = 0;
  native.release(one, 1);
}

let isOwned: (value: unknown) => value is Owned = (_value): _value is Owned => false;

/** Set once by tensor.ts: what counts as a tensor when a scope looks through its result. */
export function setOwnedTest(test: (value: unknown) => value is Owned): void {
  isOwned = test;
}

function collect(value: unknown, into: Set<Owned>): void {
  if (typeof value !== 'object' || value === null) return;
  if (isOwned(value)) into.add(value);
  else if (Array.isArray(value)) for (const item of value) collect(item, into);
  else if (value instanceof Map || value instanceof Set) for (const item of value.values()) collect(item, into);
  else {
    const prototype = Object.getPrototypeOf(value);
    if (prototype === Object.prototype || prototype === null)
      for (const item of Object.values(value)) collect(item, into);
  }
}

/**
 * Runs `body` and releases every tensor made inside it, except those found in the returned value (a tensor, or arrays, plain
 * objects, maps and sets of them) and those given to keep(). Kept tensors move to the enclosing scope. On an error all are
 * released. `body` must be synchronous: a promise would outlive the scope.
 */
export function scope<T>(body: () => T): T {
  const outer = current;
  const mine: Owned[] = [];
  current = mine;
  open.push(mine);
  const kept = new Set<Owned>();
  try {
    const result = body();
    if (result instanceof Promise) throw new TypeError('scope: the body returned a promise; a scope is synchronous');
    collect(result, kept);
    return result;
  } finally {
    current = outer;
    open.pop();
    if (mine.length > many.length) many = new Int32Array(mine.length * 2);
    let count = 0;
    for (const owned of mine) {
      if (owned.id === 0) continue;
      if (kept.has(owned)) own(owned);
      else {
        many[count++] = owned.id;
        owned.id = 0;
      }
    }
    if (count > 0) native.release(many, count);
  }
}

/**
 * Moves tensors (in arrays, plain objects, maps, sets) out of whichever open scopes they belong to: they live until disposed or
 * garbage-collected. Returns `value`.
 */
export function keep<T>(value: T): T {
  if (!current) return value;
  const kept = new Set<Owned>();
  collect(value, kept);
  const inner = current;
  current = null;
  for (const owned of kept) {
    for (let depth = open.length - 1; depth >= 0; depth--) {
      const index = open[depth]!.lastIndexOf(owned);
      if (index < 0) continue;
      // A released entry takes the handle's place in the scope's list, so that the scope does not release the handle.
      open[depth]![index] = { id: 0 };
      own(owned);
      break;
    }
  }
  current = inner;
  return value;
}

/** How many tensors are alive: equal before and after code that leaks nothing. */
export function liveTensorCount(): number {
  return native.live()[0];
}

/** Bytes of memory kept alive by tensor handles, gradients of theirs included; memory that several share counts once. */
export function liveTensorBytes(): number {
  return native.live()[1];
}
