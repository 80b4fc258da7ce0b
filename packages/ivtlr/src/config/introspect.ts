/** Questions about a zod schema that error messages and `--set` need: which keys exist at a path, and what kind of value belongs there. */
import { z } from 'zod';

type Path = readonly PropertyKey[];
type AnySchema = z.core.$ZodType;

/** Peels optional, default, preprocess and the like off a schema. */
function unwrap(schema: AnySchema): AnySchema {
  const def = schema._zod.def as { type: string; innerType?: AnySchema; in?: AnySchema; out?: AnySchema };
  if (def.innerType) return unwrap(def.innerType);
  if (def.type === 'pipe' && def.in && def.out) return unwrap(def.in._zod.def.type === 'transform' ? def.out : def.in);
  return schema;
}

/** The schema at `path`, unwrapped, or undefined where no such key may stand. */
export function schemaAt(schema: AnySchema, path: Path): AnySchema | undefined {
  const found = wholeSchemaAt(schema, path);
  return found && unwrap(found);
}

/** The same with what is wrapped around it: whether it is optional, null will do, .. */
function wholeSchemaAt(schema: AnySchema, path: Path): AnySchema | undefined {
  let here = schema;
  for (const key of path) {
    const def = unwrap(here)._zod.def as {
      type: string;
      shape?: Record<string, AnySchema>;
      element?: AnySchema;
      valueType?: AnySchema;
      items?: AnySchema[];
      options?: AnySchema[];
    };
    let next: AnySchema | undefined;
    if (def.type === 'object') next = Object.hasOwn(def.shape!, key) ? def.shape![key as string] : undefined;
    else if (def.type === 'array') next = /^\d+$/.test(String(key)) ? def.element : undefined;
    else if (def.type === 'tuple') next = def.items?.[Number(key)];
    else if (def.type === 'record') next = def.valueType;
    else if (def.type === 'union') next = def.options?.map((option) => schemaAt(option, [key])).find((found) => found);
    if (!next) return undefined;
    here = next;
  }
  return here;
}

/** Names of the keys an object at `path` may have; empty when there is no object. */
export function keysAt(schema: AnySchema, path: Path): string[] {
  const def = schemaAt(schema, path)?._zod.def as { type: string; shape?: Record<string, unknown> } | undefined;
  return def?.type === 'object' ? Object.keys(def.shape!) : [];
}

/** True where `value` can only be meant as text, so that `--set name=1e3` keeps its letters; `null` is one where null will do. */
export function wantsText(schema: AnySchema, path: Path, value: string): boolean {
  const whole = wholeSchemaAt(schema, path);
  if (!whole || unwrap(whole)._zod.def.type !== 'string') return false;
  return value !== 'null' || !z.safeParse(whole, null).success;
}

/** The known name closest to a mistyped one, or undefined when none is near (more than about a third of the letters differ). */
export function closestName(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.ceil(name.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
