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

interface Loaded {
  /** Of the puzzle it came with; null for a file. */
  seed: number | null;
  pictures: readonly Picture[];
  puzzle: Puzzle | null;
}

const NONE: readonly Picture[] = [];

export function useQuestion({ place, change }: Places, key: string): QuestionState {
  const [loaded, setLoaded] = useState<Loaded | null>(null);
  const [loading, setLoading] = useState(false);
  const [failure, setFailure] = useState<Failure | null>(null);
  /** Counts what was asked for, so that a slow answer does not replace a later one. */
  const latest = useRef(0);
  const seed = numberIn(place.params, 'seed');

  const load = useCallback(async (read: () => Promise<Loaded>) => {
    const mine = ++latest.current;
    setLoading(true);
    setFailure(null);
    try {
      const next = await read();
      if (latest.current === mine) setLoaded(next);
    } catch (error) {
      if (latest.current === mine) setFailure(failureOfThrown(error));
    } finally {
      if (latest.current === mine) setLoading(false);
    }
  }, []);

  const loadPuzzle = () => {
    if (seed === null || seed === loaded?.seed) return;
    void load(async () => {
      const puzzle = await getJson<Puzzle>(`api/puzzle?seed=${seed}`, key);
      return { seed, puzzle, pictures: [await pictureOfUrl(puzzle.image, `puzzle ${seed}`)] };
    });
  };
  useEffect(loadPuzzle, [seed, key]);

  const puzzle = seed !== null && loaded?.seed === seed ? loaded.puzzle : null;
  const edited = place.params.get('q') !== null;
  const text = edited ? place.params.get('q')! : (puzzle?.question ?? '');
  const choices = edited ? place.params.getAll('c') : (puzzle?.choices ?? []);
  // A puzzle's answer is no answer to another question.
  const asDrawn = text === puzzle?.question && choices.join('\n') === puzzle.choices.join('\n');
  const pictures = (seed === null || loaded?.seed === seed) && loaded ? loaded.pictures : NONE;
  // Words of a puzzle are about another picture; words of the reader's own stay.
  const ownPictures = () =>
    change({ seed: null, force: null, forbid: null, step: null, ...(!edited && { q: null, c: null }) });
  return {
    ...{ pictures, text, choices, gold: asDrawn ? puzzle.answer : null, seed, loading, failure },
    retry: seed !== null && seed !== loaded?.seed ? loadPuzzle : null,
    drawPuzzle: () =>
      change({ seed: Math.floor(Math.random() * 1e9), q: null, c: null, force: null, forbid: null, step: null }),
    takeFiles: (files, more) => {
      const kept = more && seed === null ? pictures : [];
      void load(async () => {
        const taken = await Promise.all((more ? files : files.slice(0, 1)).map(readPicture));
        ownPictures();
        return { seed: null, puzzle: null, pictures: [...kept, ...taken] };
      });
    },
    removePicture: (index) => {
      setLoaded({ seed: null, puzzle: null, pictures: pictures.filter((_, other) => other !== index) });
      ownPictures();
    },
    setText: (q) => change({ q, c: choices }),
    setChoices: (c) => change({ q: text, c }),
  };
}
