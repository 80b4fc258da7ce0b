/** How far the mean over a few trainings can be trusted. */
import { wilsonInterval } from '../eval/report.ts';

/**
 * 95% interval of the mean accuracy over seeds. It is Student's t interval over the trainings, since what is claimed is about a training with
 * another seed, and there are few of them. It is nowhere narrower than Wilson's interval for one training's samples at the mean: trainings that
 * all reach 1.000 on the same samples would otherwise have an interval of no width, though other samples may be answered wrong.
 * @param accuracies one a seed, all measured on the same samples
 * @param samples how many
 */
export function seedInterval(accuracies: readonly number[], samples: number): [low: number, high: number] {
  const n = accuracies.length;
  const mean = meanOf(accuracies);
  const [low, high] = wilsonInterval(mean * samples, samples);
  if (n < 2) return [low, high];
  const variance = accuracies.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  const half = studentQuantile(n - 1) * Math.sqrt(variance / n);
  return [Math.max(0, Math.min(low, mean - half)), Math.min(1, Math.max(high, mean + half))];
}

export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** What Student's t stays within with probability .95, by degrees of freedom: 12.706 for 1, 2.776 for 4. */
export function studentQuantile(degrees: number, level = 0.95): number {
  let low = 0;
  let high = 1000;
  for (let i = 0; i < 100; i++) {
    const middle = (low + high) / 2;
    if (withinStudent(middle, degrees) < level) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Probability that Student's t is between -t and t (Abramowitz and Stegun, 26.7.3 and 26.7.4). */
function withinStudent(t: number, degrees: number): number {
  const angle = Math.atan(t / Math.sqrt(degrees));
  const square = Math.cos(angle) ** 2;
  const odd = degrees % 2 === 1;
  let term = odd ? Math.cos(angle) : 1;
  let sum = degrees === 1 ? 0 : term;
  for (let k = odd ? 2 : 1; k <= degrees - 3; k += 2) {
    term *= (k / (k + 1)) * square;
    sum += term;
  }
  return odd ? (2 / Math.PI) * (angle + Math.sin(angle) * sum) : Math.sin(angle) * sum;
}
