/** Sums over answered samples: both scorers, overall and by the task's groups, steps, time, picks. */
import type { EvalResult, GroupCount } from './report.ts';

/** What one answer adds to the sums. */
export interface Counted {
  strict: boolean;
  official: boolean;
  groups: Readonly<Record<string, string>>;
  latentSteps: number;
  generatedTokens: number;
  /** The sample's share of its batch's time. */
  seconds: number;
  /** Latent steps for which the task names a cell, and those that picked it. */
  picks: { named: number; right: number };
}

export class Tally {
  samples = 0;
  #strict = 0;
  #official = 0;
  #latentSteps = 0;
  #generated = 0;
  #named = 0;
  #right = 0;
  #seconds = 0;
  readonly #groups = new Map<string, Map<string, GroupCount>>();

  add(answer: Counted): void {
    this.samples++;
    this.#strict += Number(answer.strict);
    this.#official += Number(answer.official);
    this.#latentSteps += answer.latentSteps;
    this.#generated += answer.generatedTokens;
    this.#seconds += answer.seconds;
    this.#named += answer.picks.named;
    this.#right += answer.picks.right;
    for (const [kind, value] of Object.entries(answer.groups)) {
      const counts = this.#groups.get(kind) ?? new Map<string, GroupCount>();
      this.#groups.set(kind, counts);
      const count = counts.get(value) ?? { group: value, samples: 0, correctStrict: 0, correctOfficial: 0 };
      counts.set(value, count);
      count.samples++;
      count.correctStrict += Number(answer.strict);
      count.correctOfficial += Number(answer.official);
    }
  }

  /** Groups of a kind come by falling size, then by name. */
  result(name: string): EvalResult {
    const mean = (sum: number) => (this.samples === 0 ? 0 : sum / this.samples);
    const order = (a: GroupCount, b: GroupCount) => b.samples - a.samples || (a.group < b.group ? -1 : 1);
    const groups = [...this.#groups].map(([kind, counts]) => [kind, [...counts.values()].sort(order)] as const);
    return {
      name,
      samples: this.samples,
      correctStrict: this.#strict,
      correctOfficial: this.#official,
      latentSteps: mean(this.#latentSteps),
      generatedTokens: mean(this.#generated),
      autoregressiveSteps: mean(this.#latentSteps + this.#generated),
      secondsPerSample: mean(this.#seconds),
      ...(this.#named > 0 && { pickAccuracy: this.#right / this.#named }),
      groups: Object.fromEntries(groups),
    };
  }
}
