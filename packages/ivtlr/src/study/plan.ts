/** What a study trains and measures: every recipe with every seed. Which of it is done already, the folders themselves say. */
import { existsSync } from 'node:fs';
import { basename, join, relative, resolve } from 'node:path';
import { loadRecipe } from '../config/load.ts';
import type { Recipe } from '../config/schema.ts';
import { UserError } from '../errors.ts';
import { isHubName } from '../hub/cache.ts';
import { requireSameRecipe } from '../runs/same-recipe.ts';
import { readLatestCheckpoint } from '../train/checkpoint.ts';
import { type Measurement, STUDY_ABLATIONS } from './measurement.ts';

/** One training with its measurement. */
export interface StudyRun {
  /** Of the recipe. */
  name: string;
  seed: number;
  /** With the study's seed, folder and base model. */
  recipe: Recipe;
  /** The training's folder; the measurement lies in it, too. */
  folder: string;
  measurement: Measurement;
  /** The run that makes the model this one starts from; null where it needs none. */
  base: StudyRun | null;
}

export interface StudyPlan {
  out: string;
  /** Names of the recipes, in the order in which they were given. */
  recipes: string[];
  seeds: number;
  /** In the order in which they begin: seed after seed, and no run before its base. */
  runs: StudyRun[];
}

export interface PlanOptions {
  out: string;
  /** Seeds 1 to this. */
  seeds: number;
  /** Changes of all recipes, as `path=value`. */
  set: readonly string[];
  /** Samples of the measurement; null: as many as there are, or 1000 where the task makes its own. */
  limit: number | null;
  /** Seed of the samples that a task makes for the measurement, and of random patches. */
  testSeed: number;
  /** Longest answer; null: as the recipe's validation has it. */
  maxNewTokens: number | null;
  /** Samples answered together; null: 50 that the task makes, 8 of files. */
  batch: number | null;
  note(line: string): void;
}

const MADE_SAMPLES = 1000;
const BATCH = { fresh: 50, folder: 8 };

/**
 * Reads the recipes. A recipe whose `model` lies in the folder (`out`) of another one of the study starts from what that one's run with the same
 * seed has made there, so that what several recipes share is trained once for each seed.
 * @throws UserError for recipes that cannot be read, share a name or wait for each other, and for one that has changed since its runs were made
 */
export function planStudy(names: readonly string[], options: PlanOptions): StudyPlan {
  const recipes = names.map((name) => ({
    name: basename(name).replace(/\.ya?ml$/, ''),
    recipe: loadRecipe(name, ['threads=1', ...options.set], options.note),
  }));
  const twice = recipes.find(({ name }, at) => recipes.findIndex((other) => other.name === name) < at);
  if (twice) throw new UserError(`two recipes are called ${twice.name}; a study tells them apart by their file names`);
  const ordered = basesFirst(recipes);
  const runs: StudyRun[] = [];
  for (let seed = 1; seed <= options.seeds; seed++) {
    const ofSeed = new Map<string, StudyRun>();
    for (const named of ordered) {
      const run = runOf(named, seed, ofSeed, options);
      ofSeed.set(named.name, run);
      runs.push(run);
    }
  }
  for (const { recipe, folder } of runs) {
    const latest = readLatestCheckpoint(folder);
    if (latest) requireSameRecipe(recipe, latest, 'undo the change, or begin another study with --out FOLDER');
  }
  return { out: options.out, recipes: recipes.map(({ name }) => name), seeds: options.seeds, runs };
}

interface NamedRecipe {
  name: string;
  recipe: Recipe;
}

interface OrderedRecipe extends NamedRecipe {
  /** The recipe that makes its model, and where in that one's folder the model lies. */
  base: { name: string; path: string } | null;
}

function basesFirst(recipes: readonly NamedRecipe[]): OrderedRecipe[] {
  const left: OrderedRecipe[] = recipes.map((named) => ({ ...named, base: baseOf(named, recipes) }));
  const ordered: OrderedRecipe[] = [];
  while (left.length > 0) {
    const at = left.findIndex(({ base }) => base === null || ordered.some(({ name }) => name === base.name));
    if (at < 0)
      throw new UserError(
        `the recipes ${left.map(({ name }) => name).join(', ')} wait for each other: each starts from a model that another one makes`,
      );
    ordered.push(...left.splice(at, 1));
  }
  return ordered;
}

function baseOf({ name, recipe }: NamedRecipe, recipes: readonly NamedRecipe[]): OrderedRecipe['base'] {
  const { folder } = recipe.model;
  if (folder === undefined) return null;
  for (const other of recipes) {
    if (other.name === name) continue;
    const path = relative(resolve(other.recipe.out), resolve(folder));
    if (path !== '' && !path.startsWith('..')) return { name: other.name, path };
  }
  if (existsSync(folder) || isHubName(folder)) return null;
  throw new UserError(
    `the recipe ${name} starts from the model ${folder}, which is not there: add the recipe that makes it to the study, or train it first`,
  );
}

function runOf(
  { name, recipe, base }: OrderedRecipe,
  seed: number,
  earlier: ReadonlyMap<string, StudyRun>,
  { out, limit, testSeed, maxNewTokens, batch }: PlanOptions,
): StudyRun {
  const { model, data } = recipe;
  const folder = join(out, name, `seed-${seed}`);
  const from = base && earlier.get(base.name)!;
  return {
    name,
    seed,
    folder,
    base: from,
    recipe: {
      ...recipe,
      seed,
      out: folder,
      model: {
        ...model,
        ...(model.config && { initSeed: seed }),
        ...(from && { folder: join(from.folder, base.path) }),
      },
    },
    measurement: {
      ablations: STUDY_ABLATIONS,
      data: data.source === 'folder' ? data.folder : null,
      limit: limit ?? (data.source === 'folder' ? null : MADE_SAMPLES),
      seed: testSeed,
      maxNewTokens: maxNewTokens ?? data.validation.maxNewTokens,
      batch: batch ?? BATCH[data.source],
    },
  };
}
