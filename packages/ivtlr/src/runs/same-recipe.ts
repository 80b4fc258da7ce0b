/** Comparing a recipe with the one a run was started with. */
import { type Recipe, recipeSchema } from '../config/schema.ts';
import { UserError } from '../errors.ts';
import { type Checkpoint, readLatestCheckpoint } from '../train/checkpoint.ts';

/** Settings that may differ when a run is resumed: they say where and on how many processes it runs, what is kept and what is measured, not what is trained. */
const FREE = ['checkpoint', 'data.threads', 'data.validation', 'device', 'out', 'parallel', 'threads'];

/**
 * @param remedy what the user can do about a difference
 * @throws UserError naming every setting that differs from the run's own
 */
export function requireSameRecipe(
  recipe: Recipe,
  { recipe: stored, folder }: Checkpoint,
  remedy = 'undo the change, or start anew with --set out=FOLDER',
): void {
  const now = flatten(asStored(recipe));
  const then = flatten(withDefaults(stored));
  const isFree = (path: string) => FREE.some((free) => path === free || path.startsWith(`${free}.`));
  const differing = [...new Set([...now.keys(), ...then.keys()])].filter(
    (path) => now.get(path) !== then.get(path) && !isFree(path),
  );
  if (differing.length === 0) return;
  const list = differing.map((path) => `${path} (was ${then.get(path) ?? 'absent'}, now ${now.get(path) ?? 'absent'})`);
  throw new UserError(
    `a resumed run must keep its recipe, but ${folder} was made with another ${list.join(', ')}; ${remedy}`,
  );
}

/** A recipe of an older version lacks the settings that have been added since, which then had their defaults. */
function withDefaults(stored: unknown): unknown {
  const whole = recipeSchema.safeParse(stored);
  return whole.success ? asStored(whole.data) : stored;
}

/** The stored recipe went through JSON, where undefined settings are absent. */
function asStored(recipe: Recipe): unknown {
  return JSON.parse(JSON.stringify(recipe));
}

/** The global batch of the run in this folder, which it keeps on any number of processes; null where there is no checkpoint. */
export function globalBatchOf(out: string): number | null {
  const stored = readLatestCheckpoint(out)?.recipe as { globalBatch?: unknown } | null | undefined;
  return typeof stored?.globalBatch === 'number' ? stored.globalBatch : null;
}

/** @throws UserError when the data of a resumed run have become more or fewer, or its state was written by hand */
export function requireSamePlan({ state, folder }: Checkpoint, totalSteps: number): void {
  if (state.totalSteps === totalSteps && state.step <= totalSteps) return;
  throw new UserError(
    `${folder} is step ${state.step} of a run of ${state.totalSteps} steps, but this one has ${totalSteps}: ` +
      'a resumed run needs the data it was started with; start anew with --set out=FOLDER',
  );
}

function flatten(value: unknown, path = '', into = new Map<string, string>()): Map<string, string> {
  if (typeof value === 'object' && value !== null && Object.keys(value).length > 0) {
    for (const [key, inner] of Object.entries(value)) flatten(inner, path ? `${path}.${key}` : key, into);
  } else into.set(path, JSON.stringify(value));
  return into;
}
