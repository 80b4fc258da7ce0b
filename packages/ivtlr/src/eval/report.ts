/** What an evaluation measured, as numbers, as a table and as JSON. */

/** One run of one model over one set of samples. */
export interface EvalResult {
  /** Row label, such as `full` or `zero latents`. */
  name: string;
  samples: number;
  /** Right answers by our scorer (generated text only, one offered choice) and by the official one. */
  correctStrict: number;
  correctOfficial: number;
  /** Means over samples: latent steps, generated tokens, and their sum. */
  latentSteps: number;
  generatedTokens: number;
  autoregressiveSteps: number;
  /** Wall time of the answers over the number of samples; image decoding included, model loading not. */
  secondsPerSample: number;
  /** Share of latent steps that picked the cell the task names, where a task names one. */
  pickAccuracy?: number;
  /** By the task's groupings, such as domain: how each group fared. */
  groups?: Readonly<Record<string, readonly GroupCount[]>>;
}

export interface GroupCount {
  group: string;
  samples: number;
  correctStrict: number;
  correctOfficial: number;
}

/** Accuracies by both scorers with their Wilson 95% intervals. */
interface Accuracies {
  accuracyStrict: number;
  accuracyOfficial: number;
  interval95: [number, number];
  interval95Official: [number, number];
}

/** A result with what follows from it; this is the JSON a script reads. */
export interface EvalReport extends Omit<EvalResult, 'groups'>, Accuracies {
  groups?: Record<string, (GroupCount & Accuracies)[]>;
}

/**
 * Wilson score interval of a proportion (E. B. Wilson, 1927), z = 1.96 for 95%. Unlike the normal approximation it stays inside [0, 1] and is
 * right near 0 and 1, where accuracies of a solved task lie.
 */
export function wilsonInterval(correct: number, total: number, z = 1.959964): [number, number] {
  if (total === 0) return [0, 1];
  const p = correct / total;
  const centre = p + (z * z) / (2 * total);
  const spread = z * Math.sqrt((p * (1 - p)) / total + (z * z) / (4 * total * total));
  const scale = 1 + (z * z) / total;
  return [Math.max(0, (centre - spread) / scale), Math.min(1, (centre + spread) / scale)];
}

export function toReport({ groups, ...result }: EvalResult): EvalReport {
  const kinds = Object.entries(groups ?? {}).map(([kind, counts]) => [
    kind,
    counts.map((count) => ({ ...count, ...accuracies(count) })),
  ]);
  return { ...result, ...accuracies(result), ...(groups && { groups: Object.fromEntries(kinds) }) };
}

function accuracies({ samples, correctStrict, correctOfficial }: Omit<GroupCount, 'group'>): Accuracies {
  return {
    accuracyStrict: ratio(correctStrict, samples),
    accuracyOfficial: ratio(correctOfficial, samples),
    interval95: wilsonInterval(correctStrict, samples),
    interval95Official: wilsonInterval(correctOfficial, samples),
  };
}

function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}

/** The results as columns and rows of a table. */
export function resultTable(results: readonly EvalResult[]): { columns: string[]; rows: string[][] } {
  const withPicks = results.some((result) => result.pickAccuracy !== undefined);
  const columns = ['run', 'accuracy', '95% interval', 'official', 'steps', 'latent + text', 'ms / sample', 'samples'];
  if (withPicks) columns.push('picks right');
  const rows = results.map(toReport).map((report) => {
    const row = [
      report.name,
      report.accuracyStrict.toFixed(3),
      formatInterval(report.interval95),
      report.accuracyOfficial.toFixed(3),
      report.autoregressiveSteps.toFixed(1),
      `${report.latentSteps.toFixed(1)} + ${report.generatedTokens.toFixed(1)}`,
      (report.secondsPerSample * 1000).toFixed(1),
      String(report.samples),
    ];
    if (withPicks) row.push(report.pickAccuracy?.toFixed(3) ?? '');
    return row;
  });
  return { columns, rows };
}

/** Accuracy by groups, kind after kind; null when no result has groups worth a table (one group alone says what the whole says). */
export function groupTable(results: readonly EvalResult[]): { columns: string[]; rows: string[][] } | null {
  const rows = results.flatMap((result) =>
    Object.entries(toReport(result).groups ?? {}).flatMap(([kind, groups]) =>
      groups.length < 2
        ? []
        : groups.map((group) => [
            ...(results.length > 1 ? [result.name] : []),
            kind,
            group.group || '(none)',
            group.accuracyStrict.toFixed(3),
            formatInterval(group.interval95),
            group.accuracyOfficial.toFixed(3),
            formatInterval(group.interval95Official),
            String(group.samples),
          ]),
    ),
  );
  if (rows.length === 0) return null;
  const columns = ['by', 'group', 'accuracy', '95% interval', 'official', '95% interval', 'samples'];
  return { columns: results.length > 1 ? ['run', ...columns] : columns, rows };
}

export function formatInterval(interval: readonly [number, number]): string {
  return interval.map((bound) => bound.toFixed(3)).join('-');
}
