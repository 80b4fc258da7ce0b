/**
 * Attention over rows of different lengths. Their new positions stand packed one behind the other, so that linear layers see no pads; only here
 * each group of rows is taken apart. Every row sees what it would see alone.
 * Shapes: R all new positions, b rows of a group, S new positions of each, T columns read, H query heads, G key/value heads, E head size.
 */
import { arange, cat, fromBytes, type Tensor } from '@ivtlr/torch';
import type { RowGroup } from '../types.ts';
import { type AttentionMask, type AttentionPass, attend, lastRowScores } from './attention.ts';
import type { SlotCache, SlotRange } from './slot-cache.ts';

interface Planned {
  group: RowGroup;
  /** First of the group's b*S positions in the pack. */
  offset: number;
  range: SlotRange;
  mask: AttentionMask;
  /** (b, T) bool: columns that the row has; null when all rows have all. */
  keys: Tensor | null;
}

export class RowAttention implements AttentionPass {
  readonly #cache: SlotCache;
  readonly #groups: Planned[] = [];

  constructor(cache: SlotCache, groups: readonly RowGroup[], device: string) {
    this.#cache = cache;
    let offset = 0;
    for (const group of groups) {
      const range = cache.range(group.slots, group.size);
      this.#groups.push({ group, offset, range, ...masks(group, range, device) });
      offset += group.slots.length * group.size;
    }
  }

  attend(layer: number, q_1HRE: Tensor, k_1GRE: Tensor, v_1GRE: Tensor): { mixed: Tensor; scores: Tensor[] } {
    const scores: Tensor[] = [];
    const mixed = this.#groups.map(({ group, offset, range, mask, keys: known }) => {
      const [b, S] = [group.slots.length, group.size];
      const own = (x: Tensor) => ownPositions(x, offset, b, S);
      const q = own(q_1HRE);
      const { keys, values } = this.#cache.append(layer, range, own(k_1GRE), own(v_1GRE));
      if (group.scores) scores.push(lastRowScores(q, keys, known, 'detached'));
      const mixed_bSC = attend(q, keys, values, mask);
      return b === 1 ? mixed_bSC : mixed_bSC.reshape([1, b * S, mixed_bSC.shape[2]!]);
    });
    return { mixed: mixed.length === 1 ? mixed[0]! : cat(mixed, 1), scores };
  }

  /** After the last layer. */
  advance(): void {
    for (const { group } of this.#groups) this.#cache.advance(group.slots, group.size);
  }
}

/**
 * A group's part of a pack, (1, heads, R, E) -> (b, heads, S, E). As few views as possible: while weights stream by, each costs what a small
 * operator costs.
 */
function ownPositions(pack: Tensor, offset: number, b: number, S: number): Tensor {
  const [, heads, R, E] = pack.shape as [number, number, number, number];
  const part = b * S === R ? pack : pack.narrow(2, offset, b * S);
  if (b === 1) return part;
  return S === 1 ? part.transpose(0, 2) : part.reshape([heads, b, S, E]).transpose(0, 1);
}

/** Who may see what: a row its own columns up to the position itself, less those that are hidden from it. */
function masks(
  { size: S, hidden }: RowGroup,
  { slots, columns: T, past, pasts }: SlotRange,
  device: string,
): Pick<Planned, 'mask' | 'keys'> {
  const b = slots.length;
  const whole = past !== null;
  const columns = () => arange(0, T, 1, { dtype: 'int64', device });
  // Where the rows are equally long, they have all columns.
  const keys = pasts
    ? columns()
        .view([1, T])
        .lt(pasts.add(S).view([b, 1]))
    : null;
  const hides = hidden?.some(Boolean) ?? false;
  if (whole && !hides && S === 1) return { mask: { mask: null, isCausal: false }, keys };
  if (whole && !hides && past === 0) return { mask: { mask: null, isCausal: true }, keys };
  // Position s of a row is its column past + s.
  const last = pasts
    ? pasts.view([b, 1, 1, 1]).add(arange(0, S, 1, { dtype: 'int64', device }).view([1, 1, S, 1]))
    : arange(past!, past! + S, 1, { dtype: 'int64', device })
        .view([1, 1, S, 1])
        .expand([b, 1, S, 1]);
  const sees = columns().view([1, 1, 1, T]).le(last);
  const mask = hides ? sees.and(hiddenMask(hidden!, S, T, device).not()) : sees;
  return { mask: { mask, isCausal: false }, keys };
}

/** (b, 1, S, T): true where a position may not see a column. */
function hiddenMask(hidden: NonNullable<RowGroup['hidden']>, S: number, T: number, device: string): Tensor {
  const b = hidden.length;
  const bits = new Uint8Array(b * S * T);
  hidden.forEach((row, i) => {
    if (!row) return;
    for (let s = row.rows[0]; s < row.rows[1]; s++) {
      const start = (i * S + s) * T;
      for (const [from, to] of row.columns) bits.fill(1, start + from, start + to);
    }
  });
  return fromBytes(bits, 'bool', [b, 1, S, T]).to({ device });
}
