/**
 * The first image of a TIFF file (TIFF 6.0), read to know beforehand whether the decoder gives what Pillow gives: it shows some compressions as
 * black and some colour spaces in wrong colours without an error.
 */
import { ImageFormatError } from './format-error.ts';

export interface TiffHeader {
  /** Grey, 16 bits. */
  grey16: boolean;
  /** Whether Pillow opens it in mode RGBA. */
  rgba: boolean;
  /** It has a further channel that is not transparency. */
  opaque: boolean;
}

const COMPRESSIONS: Record<number, string> = {
  1: 'none',
  4: 'CCITT group 4',
  5: 'LZW',
  7: 'JPEG',
  8: 'deflate',
  32773: 'PackBits',
  32946: 'deflate',
};
const TAG = { bits: 258, compression: 259, photometric: 262, samples: 277, planar: 284, extra: 338, format: 339 };
const [WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR] = [0, 1, 2, 3, 5, 6];

/** @throws ImageFormatError for a damaged header, and for images that would not be shown as they are */
export function tiffHeader(bytes: Uint8Array): TiffHeader {
  const tags = readTags(bytes);
  const tag = (name: keyof typeof TAG, otherwise: number) => tags.get(TAG[name])?.[0] ?? otherwise;
  const compression = tag('compression', 1);
  if (!COMPRESSIONS[compression]) {
    const known = [...new Set(Object.values(COMPRESSIONS))].join(', ');
    throw new ImageFormatError(`its compression (number ${compression}) is not read, only ${known}`);
  }
  const bits = tag('bits', 1);
  const samples = tag('samples', 1);
  if (
    (tags.get(TAG.bits) ?? []).some((other) => other !== bits) ||
    ![1, 8, 16].includes(bits) ||
    tag('format', 1) !== 1
  )
    throw new ImageFormatError('only samples of 1, 8 or 16 bits, whole and without a sign, are read');
  if (bits === 16 && samples > 1 && tag('planar', 1) !== 1)
    throw new ImageFormatError('16-bit colours are read only where the channels of a pixel stand together');
  const photometric = tag('photometric', BLACK_IS_ZERO!);
  const extra = tags.get(TAG.extra)?.[0];
  const grey = photometric === BLACK_IS_ZERO || (photometric === WHITE_IS_ZERO && bits < 16);
  const readable =
    (grey && samples === 1) ||
    (photometric === BLACK_IS_ZERO && samples === 2 && bits === 8 && extra === 2) ||
    (photometric === RGB && (samples === 3 || samples === 4) && bits >= 8) ||
    (photometric === PALETTE && samples === 1 && bits === 8) ||
    (photometric === CMYK && samples === 4 && bits === 8) ||
    (photometric === YCBCR && samples === 3 && bits === 8 && compression === 7);
  if (!readable) {
    throw new ImageFormatError(
      `its kind of colours (photometric interpretation ${photometric}, ${samples} samples of ${bits} bits) is not read`,
    );
  }
  return {
    grey16: grey && samples === 1 && bits === 16,
    rgba: photometric === RGB && samples === 4 && extra !== 0,
    opaque: extra === 0,
  };
}

/** Tags of whole numbers, by number. */
function readTags(bytes: Uint8Array): Map<number, number[]> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const little = bytes[0] === 0x49;
  const tags = new Map<number, number[]>();
  try {
    const start = view.getUint32(4, little);
    const count = view.getUint16(start, little);
    for (let entry = start + 2; entry < start + 2 + 12 * count; entry += 12) {
      const width = { 3: 2, 4: 4 }[view.getUint16(entry + 2, little)];
      const values = view.getUint32(entry + 4, little);
      // What is wanted here has few values; others, such as where the pixels lie, may have many.
      if (width === undefined || values > 64) continue;
      const from = width * values <= 4 ? entry + 8 : view.getUint32(entry + 8, little);
      const read = (i: number) =>
        width === 2 ? view.getUint16(from + 2 * i, little) : view.getUint32(from + 4 * i, little);
      tags.set(
        view.getUint16(entry, little),
        Array.from({ length: values }, (_, i) => read(i)),
      );
    }
  } catch (error) {
    if (error instanceof RangeError) throw new ImageFormatError('the file ends inside its header');
    throw error;
  }
  return tags;
}
