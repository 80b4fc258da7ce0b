/**
 * Where is the state? A linear classifier reads, from what each latent step carries on (its latent text; its picked patches), the value that a
 * written step of the same sample names. It is trained on the first half of the samples and tested on the second.
 */
import { splitSteps } from '../data/render.ts';
import type { Sample } from '../data/sample.ts';
import { UserError } from '../errors.ts';
import type { LatentState } from '../latent/row.ts';
import { Random } from '../random.ts';
import { wilsonInterval } from './report.ts';
import { ridgeClassify } from './ridge-classifier.ts';

/** The last word of a written step, without the marks behind it. */
export const LAST_WORD = /(\S+?)[.,;:!?]*$/;

export interface ProbeScore {
  accuracy: number;
  /** Wilson. */
  interval95: [number, number];
  /** Of the ridge regression, chosen on the training half. */
  penalty: number;
}

/** One latent step against the value of one written step. */
export interface ProbeCell {
  /** Latent step and written step, from 1. */
  step: number;
  written: number;
  /** Samples of each half that have both. */
  trained: number;
  tested: number;
  /** Different values. */
  values: number;
  /** Share of the most frequent value of the training half among the tested samples: what a probe without features has. */
  mostFrequent: number;
  text: ProbeScore;
  /** Of the mean of the step's picked patches; null for steps that pick none. */
  patches: ProbeScore | null;
  /** The same probes with the values dealt out anew among the samples: what is left is chance. */
  textShuffled: ProbeScore;
  patchesShuffled: ProbeScore | null;
}

export interface Probe {
  /** The regular expression that reads a value from a written step. */
  pattern: string;
  cells: ProbeCell[];
}

/** Fewer samples in a half would say nothing, and so would more values than a fifth of them. */
const LEAST_SAMPLES = 10;
const LEAST_PER_VALUE = 5;

interface Probed {
  values: (string | null)[];
  states: readonly LatentState[];
}

/** Gathers what samples' latent steps carry, then probes it. */
export class ProbeSamples {
  readonly #samples = new Map<number, Probed>();
  readonly #pattern: RegExp;

  /** @param pattern finds the value in a written step: its first group, or all that it matches */
  constructor(pattern: RegExp) {
    this.#pattern = pattern;
  }

  /** @param index place of the sample, by which the halves are made */
  add(index: number, { rationale }: Pick<Sample, 'rationale'>, states: readonly LatentState[]): void {
    const values = splitSteps(rationale, Number.POSITIVE_INFINITY).map((step) => {
      const found = this.#pattern.exec(step);
      return found ? (found[1] ?? found[0]) : null;
    });
    this.#samples.set(index, { values, states });
  }

  /** @param seed of the shuffled values. @throws UserError when the written steps name no value that could be probed for */
  probe(seed: number): Probe {
    const ordered = [...this.#samples].sort(([a], [b]) => a - b).map(([, probed]) => probed);
    const half = Math.ceil(ordered.length / 2);
    const steps = Math.max(0, ...ordered.map(({ states }) => states.length));
    const written = Math.max(0, ...ordered.map(({ values }) => values.length));
    const cells: ProbeCell[] = [];
    for (let step = 0; step < steps; step++) {
      for (let at = 0; at < written; at++) {
        const cell = probeCell(ordered.slice(0, half), ordered.slice(half), step, at, seed);
        if (cell) cells.push(cell);
      }
    }
    if (cells.length === 0) throw this.#nothingToProbe(ordered, steps);
    return { pattern: this.#pattern.source, cells };
  }

  #nothingToProbe(samples: readonly Probed[], steps: number): UserError {
    if (steps === 0) return new UserError('the model takes no latent steps, so there is nothing to probe');
    const different = new Set(samples.flatMap(({ values }) => values.filter((value) => value !== null))).size;
    return new UserError(
      `the probe's values are what ${this.#pattern} finds in the written steps: ${different} different ones in ${samples.length} samples; ` +
        `it needs at least ${2 * LEAST_SAMPLES} samples and at most one value to ${LEAST_PER_VALUE} of a half: answer more samples, or give --probe an expression that finds fewer values`,
    );
  }
}

/** Null where too few samples have the value, or too many values are different. */
function probeCell(
  first: readonly Probed[],
  second: readonly Probed[],
  step: number,
  written: number,
  seed: number,
): ProbeCell | null {
  const [train, test] = [first, second].map((half) =>
    half.flatMap(({ values, states }) => {
      const value = values[written];
      const state = states[step];
      return typeof value === 'string' && state ? [{ value, state }] : [];
    }),
  ) as [Labelled[], Labelled[]];
  if (Math.min(train.length, test.length) < LEAST_SAMPLES) return null;
  const counts = new Map<string, number>();
  for (const { value } of train) counts.set(value, (counts.get(value) ?? 0) + 1);
  if (counts.size < 2 || counts.size * LEAST_PER_VALUE > train.length) return null;
  const frequent = [...counts].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1))[0]![0];
  const both = [...train, ...test];
  const dealt = new Random(0x9806e, seed, step, written).shuffle(both.map(({ value }) => value));
  const shuffled = both.map(({ state }, i) => ({ state, value: dealt[i]! }));
  const halves = { true: [train, test], shuffled: [shuffled.slice(0, train.length), shuffled.slice(train.length)] };
  const score = (which: keyof typeof halves, part: 'text' | 'patches') => {
    const [trained, tested] = halves[which] as [Labelled[], Labelled[]];
    return probeScore(trained, tested, part);
  };
  const picks = both.every(({ state }) => state.patches !== null);
  return {
    step: step + 1,
    written: written + 1,
    trained: train.length,
    tested: test.length,
    values: counts.size,
    mostFrequent: test.filter(({ value }) => value === frequent).length / test.length,
    text: score('true', 'text'),
    patches: picks ? score('true', 'patches') : null,
    textShuffled: score('shuffled', 'text'),
    patchesShuffled: picks ? score('shuffled', 'patches') : null,
  };
}

interface Labelled {
  value: string;
  state: LatentState;
}

function probeScore(train: readonly Labelled[], test: readonly Labelled[], part: 'text' | 'patches'): ProbeScore {
  const features = (half: readonly Labelled[]) => half.map(({ state }) => state[part]!);
  const labels = train.map(({ value }) => value);
  const { predicted, classes, penalty } = ridgeClassify(features(train), labels, features(test));
  const correct = test.filter(({ value }, i) => classes[predicted[i]!] === value).length;
  return { accuracy: correct / test.length, interval95: wilsonInterval(correct, test.length), penalty };
}

export function probeTable({ cells }: Probe): { columns: string[]; rows: string[][] } {
  const columns = ['latent step', 'value of written step', 'latent text', 'picked patches', 'text, shuffled'];
  columns.push('patches, shuffled', 'most frequent', 'values', 'tested');
  const rows = cells.map((cell) => [
    String(cell.step),
    String(cell.written),
    ...[cell.text, cell.patches, cell.textShuffled, cell.patchesShuffled].map((score) =>
      score ? `${score.accuracy.toFixed(3)} (${score.interval95.map((bound) => bound.toFixed(3)).join('-')})` : '-',
    ),
    cell.mostFrequent.toFixed(3),
    String(cell.values),
    String(cell.tested),
  ]);
  return { columns, rows };
}
