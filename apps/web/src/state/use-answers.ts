/** The answers on show, each under a name of its own, and asking for them. */
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { streamChat } from '../api/client.ts';
import { failureOfThrown } from '../api/failure.ts';
import { type Answer, type Asked, endAnswer, newAnswer, takeChunk, toRequest } from './answer.ts';

export interface Answers {
  get: (name: string) => Answer | null;
  /** Asks; a running answer of the same name is stopped first. */
  ask: (name: string, asked: Asked) => void;
  stop: (name: string) => void;
}

export function useAnswers(key: string): Answers {
  const [answers, setAnswers] = useState<Readonly<Record<string, Answer>>>({});
  const running = useRef(new Map<string, AbortController>());
  useEffect(() => () => running.current.forEach((controller) => void controller.abort()), []);

  const stop = useCallback((name: string) => running.current.get(name)?.abort(), []);
  const ask = useCallback(
    (name: string, asked: Asked) => {
      running.current.get(name)?.abort();
      const controller = new AbortController();
      running.current.set(name, controller);
      const current = () => running.current.get(name) === controller;
      const update = (make: (answer: Answer) => Answer) => {
        if (current()) setAnswers((all) => ({ ...all, [name]: make(all[name]!) }));
      };
      setAnswers((all) => ({ ...all, [name]: newAnswer(asked, performance.now()) }));
      void (async () => {
        try {
          for await (const chunk of streamChat(toRequest(asked), key, controller.signal)) {
            const now = performance.now();
            update((answer) => takeChunk(answer, chunk, now));
          }
          update((answer) => endAnswer(answer, 'done', null, performance.now()));
        } catch (error) {
          const stopped = controller.signal.aborted;
          const failure = stopped ? null : failureOfThrown(error);
          update((answer) => endAnswer(answer, stopped ? 'stopped' : 'failed', failure, performance.now()));
        } finally {
          if (current()) running.current.delete(name);
        }
      })();
    },
    [key],
  );
  const get = useCallback((name: string) => answers[name] ?? null, [answers]);
  return { get, ask, stop };
}
