/** The other picture of "What if", whose latent steps are swapped in: a puzzle whose seed the address has, or a file of the reader's. */
import { useEffect, useState } from 'preact/hooks';
import type { Puzzle } from '../../../../packages/ivtlr/src/server/protocol.ts';
import { getJson } from '../api/client.ts';
import { type Failure, failureOfThrown } from '../api/failure.ts';
import { type Picture, pictureOfUrl, readPicture } from './picture.ts';
import { numberIn, type Places } from './place.ts';

export interface OtherPicture {
  picture: Picture | null;
  failure: Failure | null;
  drawPuzzle: () => void;
  takeFile: (file: File) => void;
}

interface Loaded {
  /** Of the puzzle; null for a file. */
  seed: number | null;
  picture: Picture;
}

/** @param offline the server cannot be reached; a puzzle that is missing is asked for again afterwards */
export function useOtherPicture({ place, change }: Places, key: string, offline: boolean): OtherPicture {
  const [loaded, setLoaded] = useState<Loaded | null>(null);
  const [failure, setFailure] = useState<Failure | null>(null);
  const seed = numberIn(place.params, 'other');
  useEffect(() => {
    setFailure(null);
    if (seed === null || seed === loaded?.seed) return;
    const controller = new AbortController();
    void (async () => {
      try {
        const puzzle = await getJson<Puzzle>(`api/puzzle?seed=${seed}`, key, controller.signal);
        const picture = await pictureOfUrl(puzzle.image, `puzzle ${seed}`);
        if (!controller.signal.aborted) setLoaded({ seed, picture });
      } catch (error) {
        if (!controller.signal.aborted) setFailure(failureOfThrown(error));
      }
    })();
    return () => controller.abort();
  }, [seed, key, offline]);
  return {
    ...{ picture: loaded?.picture ?? null, failure },
    drawPuzzle: () => change({ other: Math.floor(Math.random() * 1e9) }),
    takeFile: (file) => {
      void (async () => {
        setFailure(null);
        try {
          const read = await readPicture(file);
          change({ other: null });
          setLoaded({ seed: null, picture: read });
        } catch (error) {
          setFailure(failureOfThrown(error));
        }
      })();
    },
  };
}
