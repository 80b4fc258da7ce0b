/** What the processes of a run tell each other between the collectives of its tensors: numbers and short texts. One process has nobody to ask. */
import { fromBytes, type ProcessGroup, scope } from '@ivtlr/torch';

export interface Ranks {
  readonly rank: number;
  readonly size: number;
  /** Sums over all processes; all give as many numbers. */
  sum(values: readonly number[], purpose: string): number[];
  /** The largest over all processes; all give as many numbers. */
  max(values: readonly number[], purpose: string): number[];
  /** Every process's text, in the order of ranks. */
  texts(text: string, purpose: string): string[];
}

export const ALONE: Ranks = {
  rank: 0,
  size: 1,
  sum: (values) => [...values],
  max: (values) => [...values],
  texts: (text) => [text],
};

export class GroupRanks implements Ranks {
  readonly group: ProcessGroup;

  constructor(group: ProcessGroup) {
    this.group = group;
  }

  get rank(): number {
    return this.group.rank;
  }
  get size(): number {
    return this.group.size;
  }

  sum(values: readonly number[], purpose: string): number[] {
    return this.#reduce(values, 'sum', purpose);
  }

  max(values: readonly number[], purpose: string): number[] {
    return this.#reduce(values, 'max', purpose);
  }

  texts(text: string, purpose: string): string[] {
    return this.group.allGatherText(text, { purpose });
  }

  #reduce(values: readonly number[], op: 'sum' | 'max', purpose: string): number[] {
    if (values.length === 0) return [];
    return scope(() => {
      const bytes = new Uint8Array(Float64Array.from(values).buffer);
      return this.group.allReduceInPlace(fromBytes(bytes, 'float64', [values.length]), { op, purpose }).toNumbers();
    });
  }
}
