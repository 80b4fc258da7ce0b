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
  /** Wall time of the answers over the number of samples; picture decoding included, model loading not. */
  secondsPerSample: number;
  /** Share of latent steps that picked the cell the task names, where a task names one. */
  pickAccuracy?: number;
}

/** A result with what follows from it; this is the JSON a script reads. */
export interface EvalReport extends EvalResult {
  accuracyStrict: number;
  accuracyOfficial: number;
  /** Wilson 95% interval of accuracyStrict. */
  interval95: [number, number];
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

export function toReport(result: EvalResult): EvalReport {
  return {
    ...result,
    accuracyStrict: ratio(result.correctStrict, result.samples),
    accuracyOfficial: ratio(result.correctOfficial, result.samples),
    interval95: wilsonInterval(result.correctStrict, result.samples),
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
      report.interval95.map((bound) => bound.toFixed(3)).join('-'),
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
