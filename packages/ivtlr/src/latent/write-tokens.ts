/** One token a row, chosen on the device and read when it suits. Shapes: n rows, V vocabulary. */
import { keep, type Tensor } from '@ivtlr/torch';
import type { VisionLanguageModel } from '../models/types.ts';
import { chooseTokens, type ReadToken, tokenReading } from './next-token.ts';
import { type PendingRead, readLater, readTogether } from './read-together.ts';
import type { Row } from './row.ts';

/** A row that has run all it had: where it stands in the pass, and the attention probabilities of its last position, (T of its group). */
export interface Ready {
  row: Row;
  last: number;
  scores: Tensor | null;
}

/** Tokens of a pass on their way from the device. */
export interface UnreadTokens {
  /** Reads them, once. */
  finish(): WrittenToken[];
  dispose(): void;
  /** They are read when the next pass has been given to the device. */
  late: boolean;
}

export interface WrittenToken extends ReadToken {
  row: Row;
  /** The row takes no further one. */
  full: boolean;
  /** Attention probabilities of all columns that the row had; null unless the row traces its text. */
  columns: number[] | null;
}

/**
 * Chooses the next token of rows whose latent steps are done, which is the next input of each unless it is full. Call inside a scope and inference
 * mode.
 * @param given logits (n, V), and where it is known the highest of each row, (n) int64
 * @param columns of the rows that trace their text: the attention probabilities of all columns that each has
 * @param readsLate whether they may be read after the next pass was begun
 */
export function writeTokens(
  model: VisionLanguageModel,
  ready: readonly Ready[],
  { logits, highest }: { logits: Tensor; highest: Tensor | undefined },
  columns: readonly Tensor[],
  readsLate: boolean,
): UnreadTokens {
  const rows = ready.map(({ row }) => row);
  const chosen = chooseTokens(logits, rows, highest);
  // The chosen tokens are embedded on the device; their ids are read only for the events.
  const embedded = model.embed(chosen.unsqueeze(0)).select(0, 0);
  const first = rows.map(({ tokens, unread }) => tokens.length + unread === 0);
  const reading = tokenReading(logits, chosen, rows, first);
  const tensors = [...reading.tensors, ...columns];
  const late = readsLate && rows.every(canWait);
  const read = late ? readLater(tensors) : readNow(tensors);
  const full = rows.map((row, i) => {
    row.phase = 'text';
    row.unread++;
    const { maxNewTokens } = row.request.options;
    const isFull = row.tokens.length + row.unread >= maxNewTokens || row.next >= model.maxPositions;
    if (!isFull) row.pending = keep(embedded.narrow(0, i, 1));
    return isFull;
  });
  return {
    finish() {
      const numbers = read.finish();
      const traced = numbers.splice(reading.tensors.length);
      return reading.finish(numbers).map((token, i) => {
        const row = rows[i]!;
        const columns = row.request.options.traceText ? traced.shift()! : null;
        return { ...token, row, full: full[i]!, columns };
      });
    },
    dispose: read.dispose,
    late,
  };
}

/** Whether a row's next token can be chosen before this one is read: what is penalised must be known. */
function canWait({ sampling }: Row): boolean {
  return sampling.repetitionPenalty === 1;
}

function readNow(tensors: readonly Tensor[]): PendingRead {
  const numbers = readTogether(tensors);
  return { finish: () => numbers, dispose() {} };
}
