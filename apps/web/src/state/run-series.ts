/** Lines of metrics.jsonl to curves. */

export interface Curve {
  x: number[];
  y: number[];
}

export interface StageMark {
  step: number;
  name: string;
}

export type Lines = readonly Record<string, unknown>[];

/** A number of the lines of one kind over their optimiser steps; other lines, and values that are no numbers, are left out. */
export function curveOf(lines: Lines, kind: string, field: string): Curve {
  const curve: Curve = { x: [], y: [] };
  for (const line of lines) {
    const { step } = line;
    const value = line[field];
    if (line.kind !== kind || typeof step !== 'number' || typeof value !== 'number' || !Number.isFinite(value))
      continue;
    // A run that went on from a checkpoint writes some steps again; the last word counts.
    while (curve.x.length && curve.x.at(-1)! >= step) {
      curve.x.pop();
      curve.y.pop();
    }
    curve.x.push(step);
    curve.y.push(value);
  }
  return curve;
}

/** The step at which each phase begins. */
export function stageMarks(lines: Lines): StageMark[] {
  const marks: StageMark[] = [];
  let last: unknown = null;
  for (const { kind, step, phase } of lines) {
    if (kind !== 'step' || typeof step !== 'number' || typeof phase !== 'string' || phase === last) continue;
    last = phase;
    while (marks.length && marks.at(-1)!.step >= step) marks.pop();
    marks.push({ step, name: phase });
  }
  return marks;
}

/** Exponential moving average, without the pull of its start to zero. @param weight of the past, from 0 (none) to below 1 */
export function smooth({ x, y }: Curve, weight: number): Curve {
  let mean = 0;
  let known = 0;
  const smoothed = y.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    known = weight * known + (1 - weight);
    return mean / known;
  });
  return { x, y: weight > 0 ? smoothed : y };
}

/** At most about `most` points: means of neighbours. */
export function thin({ x, y }: Curve, most: number): Curve {
  const size = Math.ceil(x.length / most);
  if (size <= 1) return { x, y };
  const thinned: Curve = { x: [], y: [] };
  for (let from = 0; from < x.length; from += size) {
    const part = y.slice(from, from + size);
    thinned.x.push(x[Math.min(from + size, x.length) - 1]!);
    thinned.y.push(part.reduce((sum, value) => sum + value, 0) / part.length);
  }
  return thinned;
}

/** Curves over one common x, as a chart of several lines needs them: null where a curve has no point. */
export function align(curves: readonly Curve[]): [number[], ...(number | null)[][]] {
  const x = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  const place = new Map(x.map((step, index) => [step, index]));
  const columns = curves.map((curve) => {
    const column = new Array<number | null>(x.length).fill(null);
    curve.x.forEach((step, index) => {
      column[place.get(step)!] = curve.y[index]!;
    });
    return column;
  });
  return [x, ...columns];
}
