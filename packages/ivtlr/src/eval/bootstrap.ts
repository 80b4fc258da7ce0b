/** Paired comparison of two runs over the same samples. */
import { Random } from '../random.ts';

/**
 * Percentile bootstrap interval (B. Efron, 1979) of the mean of paired differences: samples are drawn with replacement, each with both its answers,
 * so that what makes a sample hard for both runs cancels out.
 * @param differences one per sample
 * @param seed the same seed gives the same interval
 */
export function pairedBootstrap(
  differences: readonly number[],
  { seed = 0, resamples = 2000, level = 0.95 } = {},
): [low: number, high: number] {
  const n = differences.length;
  if (n === 0) return [Number.NaN, Number.NaN];
  const random = new Random(0xb007, seed);
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += differences[random.below(n)]!;
    means[r] = sum / n;
  }
  means.sort();
  const tail = (1 - level) / 2;
  return [quantile(means, tail), quantile(means, 1 - tail)];
}

/** Of sorted numbers, with straight lines between them (R's type 7). */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  if (sorted.length === 0) return Number.NaN;
  const at = share * (sorted.length - 1);
  const below = Math.floor(at);
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (high - low) * (at - below);
}
