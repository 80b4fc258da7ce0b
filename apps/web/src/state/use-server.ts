/** What the server offers, and the key to it. */
import { useCallback, useEffect, useState } from 'preact/hooks';
import type { ModelList } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { connection, getJson } from '../api/client.ts';
import { type Failure, failureOfThrown } from '../api/failure.ts';

export type Model = ModelList['data'][number];

export interface Server {
  /** Those last heard of. */
  models: readonly Model[];
  /** Why it gave none when it was asked last. */
  failure: Failure | null;
  retry: () => void;
}

const RETRY_MS = 4000;

/** The models; asked for again every few seconds while the server gives none, and when it could not be reached for something else. */
export function useServer(key: string): Server {
  const [models, setModels] = useState<readonly Model[]>([]);
  const [failure, setFailure] = useState<Failure | null>(null);
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const again = () => setAttempt((number) => number + 1);
    getJson<ModelList>('v1/models', key, controller.signal).then(
      ({ data }) => {
        setModels(data);
        setFailure(null);
        connection.addEventListener('lost', again, { once: true, signal: controller.signal });
      },
      (error) => {
        if (controller.signal.aborted) return;
        const problem = failureOfThrown(error);
        setFailure(problem);
        // A missing key does not come by waiting.
        if (problem.kind !== 'key') timer = setTimeout(again, RETRY_MS);
      },
    );
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [key, attempt]);
  const retry = useCallback(() => setAttempt((number) => number + 1), []);
  return { models, failure, retry };
}

/** Kept for this tab and no longer. */
export function useApiKey(): [string, (key: string) => void] {
  const [key, setKey] = useState(() => sessionStorage.getItem('ivtlr-key') ?? '');
  const set = useCallback((next: string) => {
    if (next === '') sessionStorage.removeItem('ivtlr-key');
    else sessionStorage.setItem('ivtlr-key', next);
    setKey(next);
  }, []);
  return [key, set];
}
