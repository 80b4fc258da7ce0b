/** The training runs of the server, kept up to date by asking again. */
import { useEffect, useState } from 'preact/hooks';
import type { AblationTable, RunList, RunMetrics, RunSummary } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { getJson } from '../api/client.ts';
import { type Failure, failureOfThrown } from '../api/failure.ts';

const LIST_MS = 5000;
const LINES_MS = 2000;

export interface RunData {
  name: string;
  summary: RunSummary | null;
  lines: readonly Record<string, unknown>[];
  checkpoints: readonly string[];
  ablations: readonly AblationTable[];
}

export interface Runs {
  /** Newest first; null until the server has said. */
  list: readonly RunSummary[] | null;
  failure: Failure | null;
}

export function useRunList(key: string): Runs {
  const [runs, setRuns] = useState<Runs>({ list: null, failure: null });
  useEffect(
    () =>
      repeat(LIST_MS, async (signal) => {
        try {
          const { runs: list } = await getJson<RunList>('api/runs', key, signal);
          setRuns({ list: [...list].sort((a, b) => b.updated - a.updated), failure: null });
        } catch (error) {
          if (!signal.aborted) setRuns(({ list }) => ({ list, failure: failureOfThrown(error) }));
        }
      }),
    [key],
  );
  return runs;
}

/** What the named runs have written, in the order of the names. */
export function useRunData(names: readonly string[], key: string): RunData[] {
  const [data, setData] = useState<Readonly<Record<string, RunData>>>({});
  const wanted = names.join('\n');
  useEffect(() => {
    const next = new Map<string, number>();
    return repeat(LINES_MS, async (signal) => {
      for (const name of wanted === '' ? [] : wanted.split('\n')) {
        const after = next.get(name) ?? 0;
        try {
          const path = `api/runs/${encodeURIComponent(name)}?after=${after}`;
          const got = await getJson<RunMetrics>(path, key, signal);
          next.set(name, got.next);
          setData((all) => {
            const { summary, checkpoints, ablations } = got;
            // The server begins anew after a run has gone back to a checkpoint and lost lines.
            const known = all[name]?.lines ?? [];
            const from = got.next - got.lines.length;
            const lines = got.lines.length || from < known.length ? [...known.slice(0, from), ...got.lines] : known;
            return { ...all, [name]: { name, summary, checkpoints, ablations, lines } };
          });
        } catch {
          // The list says what is wrong; these lines are asked for again.
          if (signal.aborted) return;
        }
      }
    });
  }, [wanted, key]);
  return names.map((name) => data[name] ?? { name, summary: null, lines: [], checkpoints: [], ablations: [] });
}

/** Does something now and again and again, with pauses between, until the returned function is called. */
function repeat(pause: number, act: (signal: AbortSignal) => Promise<void>): () => void {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const turn = async () => {
    if (!document.hidden) await act(controller.signal);
    if (!controller.signal.aborted) timer = setTimeout(turn, pause);
  };
  void turn();
  return () => {
    controller.abort();
    clearTimeout(timer);
  };
}
