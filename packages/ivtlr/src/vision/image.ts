/** Decoded picture: 8-bit RGB, rows top to bottom, `data.length = height * width * 3`. */
export interface RgbImage {
  width: number;
  height: number;
  data: Uint8Array;
}

/** A picture as a data source hands it over: already decoded, or the bytes of an image file. */
export type RawImage =
  | ({ kind: 'rgb' } & RgbImage)
  | {
      kind: 'encoded';
      bytes: Uint8Array;
      /** Path, row or upload name; every error about this picture says it. */
      name: string;
    };
