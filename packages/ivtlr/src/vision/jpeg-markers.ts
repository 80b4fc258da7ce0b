/**
 * The markers after the pixels of a JPEG. libjpeg reads on to the end-of-image marker, and so Pillow refuses a file whose stream was broken by a
 * stray marker; libvips stops after the last row and would show grey where pixels are missing. The rules are those of ITU-T T.81, annex B.
 */
import { ImageFormatError } from './format-error.ts';

const [SOF0, SOF1, DHT, RST0, RST7, EOI, SOS, DQT, DNL, DRI, APP0, APP15, COM, TEM] = [
  0xc0, 0xc1, 0xc4, 0xd0, 0xd7, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xe0, 0xef, 0xfe, 0x01,
];

/**
 * Looks only at files with a single scan: libvips reads those with several to their end itself. A file that ends too early is left to the decoder.
 * @throws ImageFormatError when a marker that cannot stand there follows the pixels
 */
export function checkJpegMarkers(bytes: Uint8Array): void {
  let components = 0;
  let inScan = false;
  for (let at = 2; ; ) {
    // Bytes between markers are pixels or stray; FF 00 is a pixel byte, FF FF is padding.
    while (at + 1 < bytes.length && !(bytes[at] === 0xff && bytes[at + 1] !== 0 && bytes[at + 1] !== 0xff)) at++;
    if (at + 1 >= bytes.length) return;
    const marker = bytes[at + 1]!;
    at += 2;
    if (marker === EOI) return;
    if ((marker >= RST0 && marker <= RST7) || marker === TEM) continue;
    const size = at + 1 < bytes.length ? (bytes[at]! << 8) | bytes[at + 1]! : 0;
    const segment = bytes.subarray(at + 2, at + size);
    if (inScan) {
      const skipped = (marker >= APP0 && marker <= APP15) || marker === COM || marker === DNL;
      const table = (marker === DHT && isHuffman(segment)) || (marker === DQT && isQuantization(segment));
      if (size < 2 || !(skipped || table || (marker === DRI && size === 4))) {
        throw new ImageFormatError('its data are broken by a stray marker');
      }
    } else if (marker === SOF0 || marker === SOF1) {
      components = segment[5] ?? 0;
    } else if (marker === SOS) {
      if (components === 0 || segment[0] !== components) return;
      inScan = true;
    }
    at += Math.max(size, 2);
  }
}

function isHuffman(segment: Uint8Array): boolean {
  let at = 0;
  while (at + 17 <= segment.length) {
    const codes = segment.subarray(at + 1, at + 17).reduce((sum, count) => sum + count, 0);
    if (codes > 256 || (segment[at]! & 0xef) > 3) return false;
    at += 17 + codes;
  }
  return at === segment.length;
}

function isQuantization(segment: Uint8Array): boolean {
  let at = 0;
  while (at < segment.length) {
    if ((segment[at]! & 15) > 3) return false;
    at += segment[at]! >> 4 ? 129 : 65;
  }
  return at === segment.length;
}
