/** GET /api/runs: the training runs in a folder, and the measurements of one. */
import { existsSync, readdirSync, type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { readJson, readText } from '../files.ts';
import { isLocked } from '../runs/run-lock.ts';
import { checkpointName, checkpointRoot, latestFile, runFile } from '../train/checkpoint-names.ts';
import { badRequest, HttpError } from './http-error.ts';
import type { RunList, RunMetrics, RunSummary } from './protocol.ts';
import { readAblations } from './run-ablations.ts';
import type { Service } from './service.ts';

const METRICS = 'metrics.jsonl';
/** Lines of one answer; clients ask again from `next`. */
const MAX_LINES = 20_000;
const MAX_RUNS = 1000;
/** Folders that are looked into for runs. */
const MAX_FOLDERS = 10_000;
/** A study has its runs in OUT/RECIPE/seed-N. */
const LEVELS = 3;

export function addRunRoutes(app: FastifyInstance, { runs }: Service): void {
  const folder = () => {
    if (runs === null)
      throw new HttpError(404, 'the server was started without a folder of runs (--runs DIR)', { code: 'no_runs' });
    return runs;
  };
  app.get('/api/runs', (): RunList => {
    const found = runNames(folder()).flatMap((name) => {
      try {
        return [summarize(name, join(folder(), name)).summary];
      } catch {
        return []; // it cannot be read, or has just been removed
      }
    });
    return { runs: found.sort((a, b) => b.updated - a.updated) };
  });
  app.get<{ Params: { '*': string }; Querystring: { after?: unknown } }>('/api/runs/*', (request): RunMetrics => {
    const name = request.params['*'];
    const { after = '0' } = request.query;
    if (typeof after !== 'string' || !/^\d{1,12}$/.test(after))
      throw badRequest('after should be the number of lines that are there already', 'after');
    // Only names that the folder lists are read, so no name leads out of it.
    if (!runNames(folder()).includes(name))
      throw new HttpError(404, `there is no run ${name.slice(0, 200)}`, { code: 'run_not_found' });
    try {
      return readRun(name, join(folder(), name), Number(after));
    } catch {
      throw new HttpError(404, `the run ${name.slice(0, 200)} cannot be read`, { code: 'run_not_found' });
    }
  });
}

function readRun(name: string, run: string, after: number): RunMetrics {
  const { summary, entries } = summarize(name, run);
  // A resumed run drops lines, and then everything is new.
  const from = after > entries.length ? 0 : after;
  const lines = entries.slice(from, from + MAX_LINES);
  return { summary, lines, next: from + lines.length, checkpoints: checkpoints(run), ablations: readAblations(run) };
}

/** Paths of the runs below a folder, links to folders included. What is inside a run is no run. */
function runNames(folder: string): string[] {
  const runs: string[] = [];
  let looked = 0;
  const walk = (within: string, levels: number) => {
    for (const name of listed(join(folder, within))) {
      if (runs.length === MAX_RUNS || ++looked > MAX_FOLDERS) return;
      const path = within === '' ? name : `${within}/${name}`;
      if (kindOf(join(folder, path, METRICS))?.isFile()) runs.push(path);
      else if (levels > 1 && kindOf(join(folder, path))?.isDirectory()) walk(path, levels - 1);
    }
  };
  walk('', LEVELS);
  return runs;
}

/** Nothing where there is no folder, or none that can be read. */
function listed(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}

function kindOf(path: string): Stats | null {
  try {
    return statSync(path);
  } catch {
    return null;
  }
}

function summarize(name: string, run: string): { summary: RunSummary; entries: Record<string, unknown>[] } {
  const entries = readLines(join(run, METRICS));
  const { recipe, totalSteps } = recipeOf(run);
  const steps = entries.reduce((most, { step }) => (typeof step === 'number' ? Math.max(most, step) : most), 0);
  const text = (value: unknown) => (typeof value === 'string' ? value : '');
  const model = (recipe.model ?? {}) as { folder?: unknown; config?: { model_type?: unknown } };
  const fresh = text(model.config?.model_type);
  return {
    entries,
    summary: {
      name,
      task: text(recipe.task),
      model: text(model.folder) || (fresh && `fresh ${fresh}`),
      mode: text(recipe.mode),
      steps,
      totalSteps: typeof totalSteps === 'number' ? totalSteps : null,
      running: isLocked(run),
      updated: statSync(join(run, METRICS)).mtimeMs,
    },
  };
}

/** The last line may be half written; it is read whole the next time. */
function readLines(path: string): Record<string, unknown>[] {
  const lines = readText(path, 'metrics').split('\n').slice(0, -1);
  return lines.flatMap((line) => {
    try {
      const value = JSON.parse(line) as unknown;
      return typeof value === 'object' && value !== null && !Array.isArray(value)
        ? [value as Record<string, unknown>]
        : [];
    } catch {
      return [];
    }
  });
}

function checkpoints(run: string): string[] {
  const root = checkpointRoot(run);
  return existsSync(root)
    ? readdirSync(root)
        .filter((name) => checkpointName.test(name))
        .sort()
    : [];
}

/** What the run wrote when it began; in older folders, what its newest checkpoint has. Empty where there is neither. */
function recipeOf(run: string): { recipe: Record<string, unknown>; totalSteps?: unknown } {
  const object = (value: unknown) =>
    (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  try {
    const file = join(run, runFile);
    if (existsSync(file)) {
      const { recipe, totalSteps } = object(readJson(file, 'run'));
      return { recipe: object(recipe), totalSteps };
    }
    const latest = readText(join(checkpointRoot(run), latestFile), 'name of the newest checkpoint').trim();
    if (!checkpointName.test(latest)) return { recipe: {} };
    const folder = join(checkpointRoot(run), latest);
    const { totalSteps } = object(readJson(join(folder, 'state.json'), 'checkpoint state'));
    return { recipe: object(readJson(join(folder, 'recipe.json'), 'recipe')), totalSteps };
  } catch {
    return { recipe: {} };
  }
}
