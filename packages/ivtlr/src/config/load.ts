/**
 * Reads a recipe: YAML text, then a DeepSpeed config, then `--set` overrides, then the schema. Every error names file, line and column (or the
 * override).
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Document, isMap, isNode, isScalar, isSeq, LineCounter, parse, parseDocument } from 'yaml';
import type { z } from 'zod';
import { UserError } from '../errors.ts';
import { readText } from '../files.ts';
import {
  applyDeepSpeed,
  type DeepSpeedConfig,
  type DeepSpeedSetting,
  parseDeepSpeedConfig,
  requireGradientTypes,
} from './deepspeed.ts';
import { type Override, readExtension } from './extension.ts';
import { closestName, keysAt, schemaAt, wantsText } from './introspect.ts';
import { OFFICIAL_KEYS, OFFICIAL_TEXTS, OfficialSettings } from './official-keys.ts';
import { type Recipe, recipeSchema } from './schema.ts';

const bundledRecipes = fileURLToPath(new URL('../../recipes/', import.meta.url));

/** Recipes are short; a longer text is some other file. */
const MAX_CHARACTERS = 1_000_000;

/** What a recipe is read for. */
export interface RecipeContext {
  /** Path of a DeepSpeed config file, whose values count as if the recipe had them. */
  deepspeedConfig?: string | undefined;
  /** Processes that will share the run; default 1. */
  processes?: number;
  /** The global batch of the run in a folder, where that run is to go on with one; null for a run that begins. */
  globalBatchOf?(out: string): number | null;
}

/**
 * Loads and checks a recipe.
 * @param name a YAML file, or the bare name of a bundled recipe such as `dominoes`
 * @param overrides `path=value` texts, later ones win
 * @param note called with what a user may want to know: defaults that a recipe with the official code's keys gets, idle processes
 * @throws UserError listing every mistake with its place
 */
export function loadRecipe(
  name: string,
  overrides: readonly string[] = [],
  note: (line: string) => void = () => {},
  context: RecipeContext = {},
): Recipe {
  const { path, text, changes } = readExtended(name);
  const file = context.deepspeedConfig;
  const deepspeed = file === undefined ? null : parseDeepSpeedConfig(readText(file, 'DeepSpeed config'), file);
  return parseRecipe(text, path, [...changes, ...overrides], note, context, deepspeed);
}

/** A recipe's text and place, or those of the recipe that it extends, with what it changes. */
function readExtended(name: string): { path: string; text: string; changes: Override[] } {
  let path = findRecipe(name);
  const seen = [path];
  const changes: Override[] = [];
  for (;;) {
    const text = readText(path, 'recipe');
    const extension = text.length > MAX_CHARACTERS ? null : readExtension(text, path);
    if (!extension) return { path, text, changes };
    changes.unshift(...extension.overrides);
    path = findRecipe(extension.base, dirname(path));
    if (seen.includes(path)) throw new UserError(`${seen[0]}: recipes extend each other in a circle: ${path}`);
    seen.push(path);
  }
}

/** @param folder where a recipe that names it lies, which is looked at first */
function findRecipe(name: string, folder?: string): string {
  if (folder !== undefined && existsSync(join(folder, name))) return join(folder, name);
  if (existsSync(name)) return name;
  const bundled = `${bundledRecipes}${name.replace(/\.yaml$/, '')}.yaml`;
  if (/^[\w.-]+$/.test(name) && existsSync(bundled)) return bundled;
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
  overrides: readonly (string | Override)[] = [],
  note: (line: string) => void = () => {},
  { processes = 1, globalBatchOf = () => null }: RecipeContext = {},
  deepspeed: DeepSpeedConfig | null = null,
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
  const placeOf = (path: readonly string[]) => place(official.offsetOf(path[0]!) ?? offsetOf(document, path));
  const given = deepspeed && applyDeepSpeed(deepspeed, document, official, placeOf);
  const overridden = overrides.map((override) => applyOverride(document, official, override));
  for (const { path, raise } of given?.disagreements ?? [])
    if (!overridden.some((override) => path.every((key, i) => override.path.length <= i || override.path[i] === key)))
      raise();
  const origins = [...(given?.taken ?? []), ...overridden];
  const batchOrigin = origins.findLast(({ path }) => path[0] === 'globalBatch');
  const trainBatch = deepspeed?.settings.includes(batchOrigin as DeepSpeedSetting)
    ? (message: string): never => {
        throw new UserError(`${batchOrigin!.name}: ${message}`);
      }
    : null;
  const notes = official.finish({ processes, globalBatchOf, trainBatch });
  const result = recipeSchema.safeParse(plainValue(document, source));
  if (!result.success)
    throw mistakes(result.error.issues.flatMap((issue) => describeIssue(issue, document, place, origins)));
  const recipe = result.data;
  if (deepspeed) requireGradientTypes(deepspeed, recipe.lora ? 'float32' : recipe.dtype);
  for (const line of notes) note(`${source}: ${line}`);
  if (deepspeed && deepspeed.withoutEffect.length > 0)
    note(
      `${deepspeed.source}: these concern DeepSpeed itself and change nothing here: ${deepspeed.withoutEffect.join(', ')}`,
    );
  const chunks = recipe.globalBatch / recipe.microBatch;
  if (chunks < processes)
    note(
      `${source}: a step has ${chunks} micro-batches (globalBatch ${recipe.globalBatch}, microBatch ${recipe.microBatch}), so ${processes - chunks} of ${processes} processes compute nothing; a smaller microBatch gives each one`,
    );
  return recipe;
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

/** A value that the recipe's text does not have itself. */
interface Origin {
  path: readonly (string | number)[];
  /** As errors show it. */
  name: string;
}

/** Writes one `a.b=c` into the document; the value is read as YAML unless the schema wants text. */
function applyOverride(document: Document, official: OfficialSettings, override: string | Override): Origin {
  const { text, name: origin } =
    typeof override === 'string' ? { text: override, name: `--set ${override}` } : override;
  const equals = text.indexOf('=');
  if (equals < 1) throw new UserError(`--set ${text}: write path=value, such as optimizer.lr=1e-4`);
  const name = text.slice(0, equals);
  const raw = text.slice(equals + 1);
  const fail = (message: string): never => {
    throw new UserError(`${origin}: ${message}`);
  };
  if (OFFICIAL_KEYS.includes(name)) {
    const path = official.override(name, OFFICIAL_TEXTS.includes(name) ? raw : parseValue(raw, fail), fail);
    return { path: path ?? [name], name: origin };
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
  const value = wantsText(recipeSchema, path, raw) ? raw : parseValue(raw, fail);
  try {
    // A node of its own, so that later overrides can reach into it and errors find no line for it.
    document.setIn(path, document.createNode(value));
  } catch {
    fail(`${path.slice(0, -1).join('.')} holds a plain value in the recipe; set it as a whole`);
  }
  return { path, name: origin };
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
  origins: readonly Origin[],
): string[] {
  const where = (path: readonly PropertyKey[], offset?: number) => {
    const origin = origins.findLast((o) => o.path.every((key, i) => String(path[i]) === String(key)));
    const prefix = origin?.name ?? place(offset ?? offsetOf(document, path));
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
