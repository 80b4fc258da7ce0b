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

export function useOtherPicture({ place, change }: Places, key: string): OtherPicture {
  const [picture, setPicture] = useState<Picture | null>(null);
  const [failure, setFailure] = useState<Failure | null>(null);
  const seed = numberIn(place.params, 'other');
  useEffect(() => {
    if (seed === null) return;
    const controller = new AbortController();
    void (async () => {
      setFailure(null);
      try {
        const puzzle = await getJson<Puzzle>(`api/puzzle?seed=${seed}`, key, controller.signal);
        const drawn = await pictureOfUrl(puzzle.image, `puzzle ${seed}`);
        if (!controller.signal.aborted) setPicture(drawn);
      } catch (error) {
        if (!controller.signal.aborted) setFailure(failureOfThrown(error));
      }
    })();
    return () => controller.abort();
  }, [seed, key]);
  return {
    ...{ picture, failure },
    drawPuzzle: () => change({ other: Math.floor(Math.random() * 1e9) }),
    takeFile: (file) => {
      void (async () => {
        setFailure(null);
        try {
          const read = await readPicture(file);
          change({ other: null });
          setPicture(read);
        } catch (error) {
          setFailure(failureOfThrown(error));
        }
      })();
    },
  };
}
