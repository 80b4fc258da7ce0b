/** A recipe that only says in what it differs from another one, which it names with `extends`. */
import { isMap, parseDocument } from 'yaml';
import { UserError } from '../errors.ts';

/** One setting in place of another, as `path=value`. */
export interface Override {
  text: string;
  /** Where it is said, as errors show it. */
  name: string;
}

export interface Extension {
  /** Name of the recipe that is changed. */
  base: string;
  overrides: Override[];
}

/**
 * What a recipe's text changes in another one; null where it names none. Maps are changed key by key, lists and plain values as a whole.
 * @param source for errors
 * @throws UserError when it changes nothing else than it may: the folder `out` must be its own
 */
export function readExtension(text: string, source: string): Extension | null {
  const document = parseDocument(text, { prettyErrors: false });
  // Whatever else is wrong with the text is said where a recipe is read.
  if (document.errors.length > 0 || !isMap(document.contents) || !document.has('extends')) return null;
  let settings: Record<string, unknown>;
  try {
    settings = document.toJS() as Record<string, unknown>;
  } catch (error) {
    throw new UserError(`${source}: ${(error as Error).message}`);
  }
  const { extends: base, ...changed } = settings;
  if (typeof base !== 'string' || base === '')
    throw new UserError(`${source}: extends should be the name of a recipe, such as relay`);
  if (typeof changed.out !== 'string')
    throw new UserError(`${source}: a recipe that extends another one needs a folder of its own: out`);
  return { base, overrides: overridesIn(changed, [], source) };
}

function overridesIn(settings: Record<string, unknown>, above: readonly string[], source: string): Override[] {
  return Object.entries(settings).flatMap(([key, value]) => {
    const path = [...above, key];
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return overridesIn(value as Record<string, unknown>, path, source);
    const name = path.join('.');
    return [
      { text: `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`, name: `${source}: ${name}` },
    ];
  });
}
