/** Reads a recipe: YAML text, then `--set` overrides, then the schema. Every error names file, line and column (or the override). */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Document, isMap, isNode, isScalar, isSeq, LineCounter, parse, parseDocument } from 'yaml';
import type { z } from 'zod';
import { UserError } from '../errors.ts';
import { readText } from '../files.ts';
import { closestName, keysAt, schemaAt, wantsText } from './introspect.ts';
import { OFFICIAL_KEYS, OFFICIAL_TEXTS, OfficialSettings } from './official-keys.ts';
import { type Recipe, recipeSchema } from './schema.ts';

const bundledRecipes = fileURLToPath(new URL('../../recipes/', import.meta.url));

/** Recipes are short; a longer text is some other file. */
const MAX_CHARACTERS = 1_000_000;

/**
 * Loads and checks a recipe.
 * @param name a YAML file, or the bare name of a bundled recipe such as `dominoes`
 * @param overrides `path=value` texts, later ones win
 * @param note called with the defaults that a recipe with the official code's keys gets
 * @throws UserError listing every mistake with its place
 */
export function loadRecipe(
  name: string,
  overrides: readonly string[] = [],
  note: (line: string) => void = () => {},
): Recipe {
  const path = findRecipe(name);
  return parseRecipe(readText(path, 'recipe'), path, overrides, note);
}

function findRecipe(name: string): string {
  if (existsSync(name)) return name;
  const bundled = `${bundledRecipes}${name.replace(/\.yaml$/, '')}.yaml`;
  if (/^[\w-]+(\.yaml)?$/.test(name) && existsSync(bundled)) return bundled;
  throw new UserError(`no recipe ${name}: give a YAML file or the name of a recipe in ${bundledRecipes}`);
}

/**
 * A recipe from an object such as a program writes, with the defaults of what it leaves out. The official code's names of settings will do, too.
 * @throws UserError listing every mistake; lines are those of the object as indented JSON
 */
export function checkRecipe(settings: unknown): Recipe {
  return parseRecipe(JSON.stringify(settings, null, 2) ?? '', 'recipe');
}

/** As loadRecipe, for text at hand; `source` is the name that errors show. */
export function parseRecipe(
  text: string,
  source: string,
  overrides: readonly string[] = [],
  note: (line: string) => void = () => {},
): Recipe {
  if (text.length > MAX_CHARACTERS)
    throw new UserError(`${source} has ${text.length} characters; a recipe has at most ${MAX_CHARACTERS}`);
  const lines = new LineCounter();
  const document = orExplain(source, () => parseDocument(text, { lineCounter: lines, prettyErrors: false }));
  const place = (offset: number | undefined) => {
    if (offset === undefined) return `${source}:1:1`;
    const { line, col } = lines.linePos(offset);
    return `${source}:${line}:${col}`;
  };
  if (document.errors.length > 0) {
    throw mistakes(
      document.errors.map(({ code, message, pos }) => {
        const what = code === 'MULTIPLE_DOCS' ? 'a second YAML document begins here; a recipe is one' : message;
        return `${place(pos[0])}: ${what}`;
      }),
    );
  }
  if (!isMap(document.contents))
    throw new UserError(`${place(0)}: a recipe is a map of settings such as "task: dominoes"`);
  plainValue(document, source);
  const official = new OfficialSettings(document, (offset, message) => {
    throw new UserError(`${place(offset)}: ${message}`);
  });
  const overridden = overrides.map((override) => applyOverride(document, official, override));
  const notes = official.finish();
  const result = recipeSchema.safeParse(plainValue(document, source));
  if (!result.success)
    throw mistakes(result.error.issues.flatMap((issue) => describeIssue(issue, document, place, overridden)));
  for (const line of notes) note(`${source}: ${line}`);
  return result.data;
}

/** One wrong bracket can make hundreds of mistakes, of which the first ones tell the most. */
const MAX_MISTAKES = 5;

function mistakes(messages: readonly string[]): UserError {
  const more = messages.length - MAX_MISTAKES;
  return new UserError([...messages.slice(0, MAX_MISTAKES), ...(more > 0 ? [`and ${more} more`] : [])].join('\n'));
}

/** @throws UserError where aliases name no anchor, or expand to far more than was written */
function plainValue(document: Document, source: string): unknown {
  return orExplain(source, () => document.toJS());
}

/** The YAML reader throws where a text nests too deep or its aliases cannot be followed. */
function orExplain<T>(source: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new UserError(`${source}: ${(error as Error).message}`);
  }
}

interface Override {
  path: (string | number)[];
  text: string;
}

/** Writes one `a.b=c` into the document; the value is read as YAML unless the schema wants text. */
function applyOverride(document: Document, official: OfficialSettings, text: string): Override {
  const equals = text.indexOf('=');
  if (equals < 1) throw new UserError(`--set ${text}: write path=value, such as optimizer.lr=1e-4`);
  const name = text.slice(0, equals);
  const raw = text.slice(equals + 1);
  const fail = (message: string): never => {
    throw new UserError(`--set ${text}: ${message}`);
  };
  if (OFFICIAL_KEYS.includes(name)) {
    const path = official.override(name, OFFICIAL_TEXTS.includes(name) ? raw : parseValue(raw, fail), fail);
    return { path: [...(path ?? [name])], text };
  }
  const path = name.split('.').map((key) => (/^\d+$/.test(key) ? Number(key) : key));
  for (let depth = 1; depth <= path.length; depth++) {
    if (schemaAt(recipeSchema, path.slice(0, depth))) continue;
    fail(unknownKey(String(path[depth - 1]), keysAt(recipeSchema, path.slice(0, depth - 1))));
  }
  for (const [depth, key] of path.entries()) {
    const list = document.getIn(path.slice(0, depth), true);
    const length = isSeq(list) ? list.items.length : 0;
    if (typeof key === 'number' && !isMap(list) && key > length)
      fail(`${path.slice(0, depth).join('.')} has ${length} entries, so the next index is ${length}`);
  }
  const value = wantsText(recipeSchema, path) ? raw : parseValue(raw, fail);
  try {
    // A node of its own, so that later overrides can reach into it and errors find no line for it.
    document.setIn(path, document.createNode(value));
  } catch {
    fail(`${path.slice(0, -1).join('.')} holds a plain value in the recipe; set it as a whole`);
  }
  return { path, text };
}

function parseValue(raw: string, fail: (message: string) => never): unknown {
  try {
    return parse(raw);
  } catch {
    return fail('the value is not valid YAML');
  }
}

function unknownKey(key: string, known: readonly string[]): string {
  if (known.length === 0) return `unknown setting "${key}"`;
  // At the top the official code's names may stand as well.
  const close = closestName(key, known.includes('globalBatch') ? [...known, ...OFFICIAL_KEYS] : known);
  if (close) return `unknown setting "${key}"; did you mean "${close}"?`;
  return `unknown setting "${key}"; known are ${known.join(', ')}`;
}

/** One zod issue as lines `file:line:col: path: message`. */
function describeIssue(
  issue: z.core.$ZodIssue,
  document: Document,
  place: (offset?: number) => string,
  overridden: readonly Override[],
): string[] {
  const where = (path: readonly PropertyKey[], offset?: number) => {
    const override = overridden.findLast((o) => o.path.every((key, i) => String(path[i]) === String(key)));
    const prefix = override ? `--set ${override.text}` : place(offset ?? offsetOf(document, path));
    return path.length > 0 ? `${prefix}: ${path.join('.')}` : prefix;
  };
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const parent = document.getIn(issue.path as (string | number)[], true);
      const pair = isMap(parent)
        ? parent.items.find((item) => isScalar(item.key) && String(item.key.value) === key)
        : undefined;
      const offset = isNode(pair?.key) ? pair.key.range?.[0] : undefined;
      return `${where(issue.path, offset)}: ${unknownKey(key, keysAt(recipeSchema, issue.path))}`;
    });
  }
  if (issue.code === 'invalid_union') {
    const branches = issue.errors.map((branch) =>
      branch.map((inner) => inner.message.replace(/^Invalid input: |, received undefined$/g, '')).join(', '),
    );
    return [`${where(issue.path)}: fits none of the allowed forms (${branches.join('; or ')})`];
  }
  if (issue.code === 'invalid_type' && document.getIn(issue.path as (string | number)[]) === undefined) {
    return [`${where(issue.path)}: missing; expected ${issue.expected}`];
  }
  return [`${where(issue.path)}: ${issue.message}`];
}

/** Where the value at `path` starts; for a missing one, where the nearest enclosing value starts. */
function offsetOf(document: Document, path: readonly PropertyKey[]): number | undefined {
  for (let depth = path.length; depth > 0; depth--) {
    const node = document.getIn(path.slice(0, depth) as (string | number)[], true);
    if (isNode(node) && node.range) return node.range[0];
  }
  return isNode(document.contents) ? document.contents.range?.[0] : undefined;
}
