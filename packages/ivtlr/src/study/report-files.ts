/** A study's table and figure: study.md, study.json and study.png. */
import { join } from 'node:path';
import { writeFileAtomic } from '../files.ts';
import { type DotTable, drawDotTable } from '../trace/dot-table.ts';
import type { RecipeReport, StudyReport } from './report.ts';

/** @returns the paths. @throws UserError when they cannot be written */
export function writeReport(out: string, report: StudyReport): string[] {
  const files: [string, string | Uint8Array][] = [
    ['study.md', studyMarkdown(report)],
    ['study.json', `${JSON.stringify(report, null, 2)}\n`],
    ['study.png', drawDotTable(studyFigure(report))],
  ];
  return files.map(([name, content]) => {
    const path = join(out, name);
    writeFileAtomic(path, content);
    return path;
  });
}

export function columnTitle(ablation: string): string {
  return ablation.replaceAll('-', ' ');
}

export function studyTable({ ablations, recipes }: StudyReport): { columns: string[]; rows: string[][] } {
  const columns = ['recipe', 'seeds', ...ablations.map(columnTitle), 'steps', 'ms a sample', 'training'];
  const rows = recipes.map(({ recipe, seeds, accuracy, autoregressiveSteps, secondsPerSample, training }) => [
    recipe,
    String(seeds.length),
    ...ablations.map((key) => {
      const estimate = accuracy[key];
      if (!estimate) return '';
      return `${share(estimate.mean)} (${estimate.interval95.map(share).join('-')})`;
    }),
    autoregressiveSteps?.toFixed(1) ?? '',
    secondsPerSample === null ? '' : (1000 * secondsPerSample).toFixed(1),
    training ? `${training.steps} steps, ${training.seconds.toFixed(0)} s` : '',
  ]);
  return { columns, rows };
}

export function studyMarkdown(report: StudyReport): string {
  const { command, seeds, runs, finished, ablations, samples, splits, testSeed, recipes, failed, interval, warnings } =
    report;
  const { columns, rows } = studyTable(report);
  const trained = seeds === 1 ? 'one training each' : `seeds 1 to ${seeds}`;
  const eachSeed = recipes.flatMap(({ recipe, seeds, accuracy }) =>
    seeds.map((seed) => [
      recipe,
      String(seed),
      ...ablations.map((key) => {
        const value = accuracy[key]?.values[seed];
        return value === undefined ? '' : share(value);
      }),
    ]),
  );
  const parts = [
    '# Study',
    `${recipes.length === 1 ? 'One recipe' : `${recipes.length} recipes`}, ${trained}; ${finished} of ${runs} runs are done.`,
    `Accuracy on ${samples} samples (${splits.join(', ') || 'test'}; seed ${testSeed} where the task makes them), mean over seeds and in brackets its interval (${interval}).`,
    ...warnings,
    'Steps: latent steps and written tokens. Seconds are those of this machine with all its other work.',
    markdownTable(columns, rows),
    '![accuracy of every recipe, whole and with parts of the latent steps changed](study.png)',
    '## Every seed',
    markdownTable(['recipe', 'seed', ...ablations.map(columnTitle)], eachSeed),
  ];
  if (failed.length > 0)
    parts.push(
      '## Failed',
      markdownTable(
        ['recipe', 'seed', 'reason', 'log'],
        failed.map(({ recipe, seed, reason, log }) => [recipe, String(seed), reason, log ?? '']),
      ),
    );
  parts.push(`Made by\n\n    ${command}`);
  return `${parts.join('\n\n')}\n`;
}

function studyFigure({ ablations, recipes, seeds, finished, runs }: StudyReport): DotTable {
  const state = finished === runs ? '' : `; ${finished} of ${runs} runs are done`;
  return {
    title: `Accuracy, mean over ${seeds === 1 ? 'one seed' : `${seeds} seeds`} with 95% interval; small dots: each seed${state}`,
    columns: ablations.map((key) => ({ title: columnTitle(key), group: groupOf(key) })),
    rows: recipes.map((recipe) => ({
      name: recipe.recipe,
      note: noteOf(recipe),
      cells: ablations.map((key) => {
        const estimate = recipe.accuracy[key];
        if (!estimate) return null;
        const { mean, interval95, values } = estimate;
        return { mean, interval: interval95, values: Object.values(values) };
      }),
    })),
  };
}

/** Columns of the same part of a latent step have the same colour. */
function groupOf(ablation: string): number {
  if (ablation.includes('text')) return 2;
  return ablation.includes('patches') ? 3 : Number(ablation !== 'full');
}

function noteOf({ autoregressiveSteps, secondsPerSample }: RecipeReport): string {
  if (autoregressiveSteps === null) return 'no run is done';
  return `${autoregressiveSteps.toFixed(1)} steps, ${(1000 * secondsPerSample!).toFixed(1)} ms`;
}

/** .987, 1.000 */
function share(value: number): string {
  return value.toFixed(3).replace(/^0\./, '.');
}

function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replace(/\|/g, '\\|').replace(/\s+/g, ' ')).join(' | ')} |`;
  return [line(columns), `|${columns.map(() => '---|').join('')}`, ...rows.map(line)].join('\n');
}
