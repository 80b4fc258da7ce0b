/** Numbers about a data set: how long its texts are, how often each value stands. */

/** Of a list of lengths: nearest-rank percentiles. */
export interface LengthSummary {
  count: number;
  min: number;
  p50: number;
  p90: number;
  p99: number;
  max: number;
  mean: number;
}

/** Null for an empty list. */
export function summarizeLengths(values: readonly number[]): LengthSummary | null {
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const rank = (part: number) => sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)]!;
  const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
  return { count: sorted.length, min: rank(0), p50: rank(0.5), p90: rank(0.9), p99: rank(0.99), max: rank(1), mean };
}

/** How often each value stands: numbers in their order, anything else most frequent first and equal ones by name. */
export class Tally {
  readonly #counts = new Map<string, number>();

  add(value: string): void {
    this.#counts.set(value, (this.#counts.get(value) ?? 0) + 1);
  }

  entries(): [value: string, count: number][] {
    const entries = [...this.#counts];
    if (entries.every(([value]) => /^\d+$/.test(value))) return entries.sort(([a], [b]) => Number(a) - Number(b));
    return entries.sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  }
}
