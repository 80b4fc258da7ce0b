/** A picture that the engine is asked about when nobody else asks. */
import { encodePng } from '../tasks/make-file.ts';

const SIDE = 112;

/** A grey PNG. */
export function pictureOfNothing(): Promise<Uint8Array> {
  return encodePng({ kind: 'rgb', width: SIDE, height: SIDE, data: new Uint8Array(SIDE * SIDE * 3).fill(128) });
}
