/** After a failure every process marks itself in the store and looks who else does: who does not is the one that is missing. */
import type { Store } from './store.ts';

/** How long a process looks who else has noticed a failure, seconds. */
export const LOOK_AROUND = 3;
/** Before the reason of a process that gave up by itself; the others write only that they noticed. */
export const FAILED = 'failed: ';

interface Members {
  readonly name: string;
  readonly rank: number;
  readonly ranks: readonly number[];
  readonly store: Store;
}

export function failureKey(group: string, rank: number): string {
  return `failure/${group}/${rank}`;
}

/** A clause that names the missing ranks, by their numbers in the world. Takes up to five seconds. */
export function whoIsMissing({ name, rank, ranks, store }: Members, servesStore: boolean): string {
  const until = performance.now() + LOOK_AROUND * 1000;
  const left = () => ({ timeout: Math.max(0.2, (until - performance.now()) / 1000) });
  try {
    store.set(failureKey(name, rank), 'noticed', left());
    let silent = ranks.map((_, member) => member).filter((member) => member !== rank);
    const reasons: string[] = [];
    for (;;) {
      silent = silent.filter((member) => {
        const key = failureKey(name, member);
        if (!store.check([key], left())) return true;
        const text = store.getText(key, left());
        if (text.startsWith(FAILED)) reasons.push(`rank ${ranks[member]} ${text}`);
        return false;
      });
      if (reasons.length > 0 || silent.length === 0 || performance.now() > until) break;
      pause(50);
    }
    // The others may still be looking.
    if (servesStore) pause(1000);
    if (reasons.length > 0) return reasons.join('; ');
    if (silent.length === 0) return 'all ranks have noticed it';
    const names = silent.map((member) => ranks[member]).join(', ');
    return silent.length === 1 ? `rank ${names} does not answer` : `ranks ${names} do not answer`;
  } catch {
    return 'the process that serves the store (rank 0, or the launcher) is gone or does not answer';
  }
}

function pause(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

/** c10d's errors go on with advice and traces. */
export function firstSentence(message: string): string {
  return message.split(/\. |\n/)[0]!;
}
