/** What stands before the pixels of a PNG, checked as Pillow checks it: libpng names no reason for some of these and forgives others. */
import { crc32 } from 'node:zlib';
import { ImageFormatError } from './format-error.ts';

export interface PngHeader {
  /** Bits of a sample. */
  depth: number;
  /** 0 grey, 2 colour, 3 palette, 4 grey with alpha, 6 colour with alpha. */
  colourType: number;
}

const SIGNATURE_BYTES = 8;
const LETTERS = /^[A-Za-z]{4}$/;

/** @throws ImageFormatError when a chunk before the pixels is damaged or missing */
export function pngHeader(bytes: Uint8Array): PngHeader {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let palette = false;
  let header: PngHeader | null = null;
  for (let at = SIGNATURE_BYTES; ; ) {
    if (at + 8 > file.length) throw new ImageFormatError('the file ends before the pixels');
    const size = file.readUInt32BE(at);
    const type = file.toString('latin1', at + 4, at + 8);
    if (!LETTERS.test(type)) throw new ImageFormatError('a chunk before the pixels is damaged');
    if (!header && type !== 'IHDR') throw new ImageFormatError('it does not begin with its header');
    if (type === 'IDAT') {
      if (header!.colourType === 3 && !palette) throw new ImageFormatError('it has no palette');
      return header!;
    }
    if (type === 'IEND') throw new ImageFormatError('it has no pixels');
    const end = at + 12 + size;
    if (end > file.length) throw new ImageFormatError(`the file ends inside the chunk ${type}`);
    // A chunk whose name starts with a capital letter is needed for the pixels.
    const needed = type[0]! < 'a';
    if (needed && crc32(file.subarray(at + 4, end - 4)) !== file.readUInt32BE(end - 4)) {
      throw new ImageFormatError(`the checksum of the chunk ${type} is wrong`);
    }
    if (type === 'IHDR') {
      if (size !== 13) throw new ImageFormatError('its header has a wrong length');
      header = { depth: file[at + 16]!, colourType: file[at + 17]! };
    }
    palette ||= type === 'PLTE';
    at = end;
  }
}
