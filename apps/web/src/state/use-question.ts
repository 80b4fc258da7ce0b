/** The question on all pages: words in the address, the picture from the server's puzzle or from a file of the reader's. */
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import type { Puzzle } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { getJson } from '../api/client.ts';
import { type Failure, failureOfThrown } from '../api/failure.ts';
import { type Picture, pictureOfUrl, readPicture } from './picture.ts';
import { numberIn, type Places } from './place.ts';

export interface QuestionState {
  pictures: readonly Picture[];
  text: string;
  choices: readonly string[];
  gold: string | null;
  /** Of the puzzle; null with pictures of the reader's own. */
  seed: number | null;
  loading: boolean;
  failure: Failure | null;
  /** Asks for the puzzle again after a failure; null when that would not help. */
  retry: (() => void) | null;
  drawPuzzle: () => void;
  /** @param more they come beside the pictures that are there; else the first takes their place */
  takeFiles: (files: readonly File[], more: boolean) => void;
  removePicture: (index: number) => void;
  setText: (text: string) => void;
  setChoices: (choices: readonly string[]) => void;
}

interface Drawn {
  seed: number;
  pictures: readonly Picture[];
  puzzle: Puzzle;
}

const NONE: readonly Picture[] = [];

/** @param offline the server cannot be reached; a puzzle that is missing is asked for again afterwards */
export function useQuestion({ place, change }: Places, key: string, offline: boolean): QuestionState {
  const [drawn, setDrawn] = useState<Drawn | null>(null);
  /** Kept beside the puzzle, for an address without one that the reader goes back to. */
  const [own, setOwn] = useState(NONE);
  const [loading, setLoading] = useState(false);
  const [failure, setFailure] = useState<Failure | null>(null);
  /** Counts what was asked for, so that a slow answer does not replace a later one. */
  const latest = useRef(0);
  const seed = numberIn(place.params, 'seed');

  const load = useCallback(async <T>(read: () => Promise<T>, take: (read: T) => void) => {
    const mine = ++latest.current;
    setLoading(true);
    setFailure(null);
    try {
      const next = await read();
      if (latest.current === mine) take(next);
    } catch (error) {
      if (latest.current === mine) setFailure(failureOfThrown(error));
    } finally {
      if (latest.current === mine) setLoading(false);
    }
  }, []);

  const loadPuzzle = () => {
    if (seed === null || seed === drawn?.seed) return;
    void load(async () => {
      const puzzle = await getJson<Puzzle>(`api/puzzle?seed=${seed}`, key);
      return { seed, puzzle, pictures: [await pictureOfUrl(puzzle.image, `puzzle ${seed}`)] };
    }, setDrawn);
  };
  useEffect(loadPuzzle, [seed, key, offline]);

  const shown = seed !== null && drawn?.seed === seed ? drawn : null;
  const puzzle = shown?.puzzle ?? null;
  const edited = place.params.get('q') !== null;
  const text = edited ? place.params.get('q')! : (puzzle?.question ?? '');
  const choices = edited ? place.params.getAll('c') : (puzzle?.choices ?? []);
  // A puzzle's answer is no answer to another question.
  const asDrawn = text === puzzle?.question && choices.join('\n') === puzzle.choices.join('\n');
  const pictures = seed === null ? own : (shown?.pictures ?? NONE);
  const takeOwn = (next: readonly Picture[]) => {
    setOwn(next);
    // Words of a puzzle are about another picture; words of the reader's own stay.
    change({ seed: null, force: null, forbid: null, step: null, ...(!edited && { q: null, c: null }) });
  };
  return {
    ...{ pictures, text, choices, gold: asDrawn ? puzzle.answer : null, seed, loading, failure },
    retry: seed !== null && seed !== drawn?.seed ? loadPuzzle : null,
    drawPuzzle: () =>
      change({ seed: Math.floor(Math.random() * 1e9), q: null, c: null, force: null, forbid: null, step: null }),
    takeFiles: (files, more) => {
      const kept = more && seed === null ? pictures : [];
      void load(
        () => Promise.all((more ? files : files.slice(0, 1)).map(readPicture)),
        (taken) => takeOwn([...kept, ...taken]),
      );
    },
    removePicture: (index) => takeOwn(pictures.filter((_, other) => other !== index)),
    setText: (q) => change({ q, c: choices }),
    setChoices: (c) => change({ q: text, c }),
  };
}
