/** Decoded image: 8-bit RGB, rows top to bottom, `data.length = height * width * 3`. */
export interface RgbImage {
  width: number;
  height: number;
  data: Uint8Array;
}

/** What a file shows. */
export interface DecodedImage extends RgbImage {
  /** What the user should know about how it was read. */
  note?: string;
}

/** The image a model's input was made from, in its own pixels. */
export interface ImageSource {
  width: number;
  height: number;
  /** The part of it that the image tokens cover, in fractions of pixels; absent: all of it. May stick out where black was added. */
  shown?: { left: number; top: number; width: number; height: number };
}

/** An image as a data source hands it over: already decoded, or the bytes of an image file. */
export type RawImage =
  | ({ kind: 'rgb' } & RgbImage)
  | {
      kind: 'encoded';
      bytes: Uint8Array;
      /** Path, row or upload name; every error about this image says it. */
      name: string;
    };
